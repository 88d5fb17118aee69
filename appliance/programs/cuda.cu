/* The scrub program for NVIDIA's cards, through CUDA. Usage: cuda NONCE [-|ADDRESS [LIMIT_MIB]]
 *
 * It allocates all that can be had, writes a pattern over it and compares it on the card, then zeros. What the
 * driver keeps for itself is out of reach: 0.8 % of an H200. docs/benchmarks.md says where it was run. */
#include "cuda_memory.h"

#ifndef SPOIL /* the tests' way to see what it says of memory that does not keep what is written */
#define SPOIL(chunk, seed)
#endif

__global__ void write_pattern(uint64_t *words, uint64_t count, uint64_t seed, uint64_t first)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; index < count; index += stride)
        words[index] = pattern_word(seed, first + index);
}

static __device__ void judge(uint64_t word, uint64_t wanted, uint64_t place, unsigned long long *wrong,
                             unsigned long long *lowest)
{
    if (word != wanted) {
        atomicAdd(wrong, 1ull);
        atomicMin(lowest, (unsigned long long)place);
    }
}

/* Counts the words that are not as written, and keeps the lowest place of one. Two words are read at a time: that
 * is nearer to what the memory can give. */
__global__ void compare(const ulonglong2 *pairs, uint64_t count, uint64_t seed, uint64_t first, int zeros,
                        unsigned long long *wrong, unsigned long long *lowest)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; index < count; index += stride) {
        ulonglong2 pair = pairs[index];
        uint64_t place = first + 2 * index;
        judge(pair.x, zeros ? 0 : pattern_word(seed, place), place, wrong, lowest);
        judge(pair.y, zeros ? 0 : pattern_word(seed, place + 1), place + 1, wrong, lowest);
    }
}

static double write_all(uint64_t total, uint64_t seed, int zeros)
{
    double began = now_seconds();
    for (int number = 0; number < chunk_count; number++) {
        struct chunk *chunk = &chunks[number];
        if (zeros)
            check(cudaMemsetAsync(chunk->words, 0, chunk->size), "memset");
        else
            write_pattern<<<BLOCKS, THREADS>>>(chunk->words, chunk->size / 8, seed, chunk->offset / 8);
        if (number % 16 == 15 || number + 1 == chunk_count) {
            check(cudaDeviceSynchronize(), "write");
            say_progress(zeros ? "zero" : "fill", chunk->offset + chunk->size, total);
        }
    }
    return now_seconds() - began;
}

static double compare_all(uint64_t total, uint64_t seed, int zeros, struct result *result)
{
    unsigned long long *counters, found[2] = {0, ~0ull};
    check(cudaMallocHost((void **)&counters, sizeof found), "host memory");
    memcpy(counters, found, sizeof found);
    double began = now_seconds();
    for (int number = 0; number < chunk_count; number++) {
        struct chunk *chunk = &chunks[number];
        compare<<<BLOCKS, THREADS>>>((const ulonglong2 *)chunk->words, chunk->size / 16, seed, chunk->offset / 8, zeros,
                                     counters, counters + 1);
        if (number % 16 == 15 || number + 1 == chunk_count) {
            check(cudaDeviceSynchronize(), "compare");
            say_progress(zeros ? "check" : "read", chunk->offset + chunk->size, total);
        }
    }
    double took = now_seconds() - began;
    if (counters[0] && result->first_mismatch < 0)
        result->first_mismatch = (int64_t)(counters[1] * 8);
    result->mismatches += counters[0];
    check(cudaFreeHost(counters), "host memory");
    return took;
}

int main(int count, char **words)
{
    struct result result = {};
    cudaDeviceProp device;
    int index = 0, driver = 0, runtime = 0;
    char text[200];
    result.variant = "cuda";
    result.first_mismatch = -1;
    take_nonce(count > 1 ? words[1] : "");
    check(count > 2 && strcmp(words[2], "-") ? cudaDeviceGetByPCIBusId(&index, words[2]) : cudaSuccess, "device");
    check(cudaSetDevice(index), "device");
    check(cudaGetDeviceProperties(&device, index), "device");
    check(cudaDriverGetVersion(&driver), "driver version");
    check(cudaRuntimeGetVersion(&runtime), "runtime version");
    keep_plain(result.device, sizeof result.device, device.name);
    snprintf(text, sizeof text, "CUDA %d, runtime %d", driver, runtime);
    keep_plain(result.driver, sizeof result.driver, text);
    result.total = device.totalGlobalMem;
    result.reached = allocate_all(count > 3 ? strtoull(words[3], NULL, 10) << 20 : ~0ull);
    if (!result.reached)
        say_failure("No memory of the card could be allocated.");
    uint64_t seed = pattern_seed(report_nonce);
    result.fill = write_all(result.reached, seed, 0);
    SPOIL(&chunks[chunk_count - 1], seed);
    result.read = compare_all(result.reached, seed, 0, &result);
    result.zero = write_all(result.reached, seed, 1);
    result.check = compare_all(result.reached, seed, 1, &result);
    say_result(&result);
    return 0;
}
