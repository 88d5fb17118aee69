/* The card's memory through CUDA, in pieces: as much of it as can be had. */
#ifndef CUDA_MEMORY_H
#define CUDA_MEMORY_H

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

#endif
