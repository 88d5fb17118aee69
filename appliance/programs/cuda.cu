/* The scrub program for NVIDIA's cards, through CUDA. Usage: cuda NONCE [-|ADDRESS [LIMIT_MIB]]
 *
 * It allocates all that can be had, writes a pattern over it and compares it on the card, then zeros. What the
 * driver keeps for itself is out of reach. UNVERIFIED: it compiles; it has not been run on a card. */
#include <cuda_runtime.h>

#include "pattern.h"
#include "report.h"

#define LARGEST (256ull << 20)
#define SMALLEST (2ull << 20)
#define MOST_CHUNKS 65536
#define THREADS 256
#define BLOCKS 4096

struct chunk {
    uint64_t *words;
    uint64_t size, offset;
};

static struct chunk chunks[MOST_CHUNKS];
static int chunk_count;

static void check(cudaError_t status, const char *what)
{
    if (status != cudaSuccess)
        say_failure("%s: %s", what, cudaGetErrorString(status));
}

__global__ void write_pattern(uint64_t *words, uint64_t count, uint64_t seed, uint64_t first)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; index < count; index += stride)
        words[index] = pattern_word(seed, first + index);
}

/* Counts the words that are not as written, and keeps the lowest place of one. */
__global__ void compare(const uint64_t *words, uint64_t count, uint64_t seed, uint64_t first, int zeros,
                        unsigned long long *wrong, unsigned long long *lowest)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; index < count; index += stride) {
        uint64_t wanted = zeros ? 0 : pattern_word(seed, first + index);
        if (words[index] != wanted) {
            atomicAdd(wrong, 1ull);
            atomicMin(lowest, (unsigned long long)(first + index));
        }
    }
}

/* Ever smaller pieces until none is left. */
static uint64_t allocate_all(uint64_t limit)
{
    uint64_t reached = 0;
    for (uint64_t size = LARGEST; size >= SMALLEST; size /= 2)
        while (chunk_count < MOST_CHUNKS && reached + size <= limit) {
            struct chunk *next = &chunks[chunk_count];
            if (cudaMalloc((void **)&next->words, size) != cudaSuccess) {
                cudaGetLastError();
                break;
            }
            next->size = size;
            next->offset = reached;
            reached += size;
            chunk_count++;
        }
    return reached;
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
        compare<<<BLOCKS, THREADS>>>(chunk->words, chunk->size / 8, seed, chunk->offset / 8, zeros, counters,
                                     counters + 1);
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
    result.read = compare_all(result.reached, seed, 0, &result);
    result.zero = write_all(result.reached, seed, 1);
    result.check = compare_all(result.reached, seed, 1, &result);
    say_result(&result);
    return 0;
}
