/* What the card's memory does without the scrub program. Usage: card_memory memset ROUNDS | leave WORD | find WORD
 *
 * memset: the driver's own cudaMemset over all that can be had, ROUNDS times after once to warm up.
 * leave:  every eight bytes become WORD (hexadecimal), and stay so.
 * find:   counts the WORDs in memory that this process has not written, and all words that are not zero. */
#include "cuda_memory.h"

__global__ void write_word(uint64_t *words, uint64_t count, uint64_t word)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; index < count; index += stride)
        words[index] = word;
}

__global__ void count_words(const uint64_t *words, uint64_t count, uint64_t word, unsigned long long *found)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    unsigned long long same = 0, other = 0;
    for (uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; index < count; index += stride) {
        same += words[index] == word;
        other += words[index] != 0;
    }
    if (same)
        atomicAdd(found, same);
    if (other)
        atomicAdd(found + 1, other);
}

static double set_all(void)
{
    check(cudaDeviceSynchronize(), "before");
    double began = now_seconds();
    for (int number = 0; number < chunk_count; number++)
        check(cudaMemsetAsync(chunks[number].words, 0, chunks[number].size), "memset");
    check(cudaDeviceSynchronize(), "memset");
    return now_seconds() - began;
}

static void measure(int rounds)
{
    set_all();
    printf(",\"seconds\":[");
    for (int round = 0; round < rounds; round++)
        printf("%s%.6f", round ? "," : "", set_all());
    printf("]");
}

static void leave(uint64_t word)
{
    for (int number = 0; number < chunk_count; number++)
        write_word<<<BLOCKS, THREADS>>>(chunks[number].words, chunks[number].size / 8, word);
    check(cudaDeviceSynchronize(), "write");
}

static void find(uint64_t word)
{
    unsigned long long *found;
    check(cudaMallocHost((void **)&found, 2 * sizeof *found), "host memory");
    found[0] = found[1] = 0;
    for (int number = 0; number < chunk_count; number++)
        count_words<<<BLOCKS, THREADS>>>(chunks[number].words, chunks[number].size / 8, word, found);
    check(cudaDeviceSynchronize(), "read");
    printf(",\"found\":%llu,\"not_zero\":%llu", found[0], found[1]);
}

int main(int count, char **words)
{
    if (count != 3)
        return 2;
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "device");
    uint64_t reached = allocate_all(~0ull);
    printf("{\"device\":\"%s\",\"total\":%llu,\"reached\":%llu", device.name, (unsigned long long)device.totalGlobalMem,
           (unsigned long long)reached);
    if (!strcmp(words[1], "memset"))
        measure(atoi(words[2]));
    else if (!strcmp(words[1], "leave"))
        leave(strtoull(words[2], NULL, 16));
    else
        find(strtoull(words[2], NULL, 16));
    printf("}\n");
    return 0;
}
