/* What is written before the zeros: at each eight bytes another value, made from their place and the nonce, so
 * that memory which answers at two places, or not at all, reads back wrong. The mixer is splitmix64's. */
#ifndef PATTERN_H
#define PATTERN_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __CUDACC__
#define ON_BOTH __host__ __device__
#else
#define ON_BOTH
#endif

static inline ON_BOTH uint64_t pattern_word(uint64_t seed, uint64_t place)
{
    uint64_t word = seed + (place + 1) * 0x9e3779b97f4a7c15ull;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ word >> 27) * 0x94d049bb133111ebull;
    return word ^ word >> 31;
}

/* The seed is the nonce's first sixteen digits. */
static inline uint64_t pattern_seed(const char *nonce)
{
    char digits[17] = {0};
    strncpy(digits, nonce, 16);
    return strtoull(digits, NULL, 16);
}

#endif
