/* The scrub program for cards whose memory is their PCI BAR: it needs no driver. Usage: plain NONCE ADDRESS
 *
 * It maps the BAR from inside the machine, writes a pattern over all of it and reads it back, then zeros. */
#include <errno.h>
#include <fcntl.h>
#include <smmintrin.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pattern.h"
#include "report.h"

#ifndef DEVICES
#define DEVICES "/sys/bus/pci/devices"
#endif
#ifndef SPOIL /* the tests' way to see what it says of memory that does not keep what is written */
#define SPOIL(memory)
#endif
#define CHUNK (1024u * 1024u)
#define MEMORY 0x200u
#define PREFETCHABLE 0x2000u

static unsigned char wanted[CHUNK] __attribute__((aligned(64))), seen[CHUNK] __attribute__((aligned(64)));

struct bar {
    int index;
    uint64_t size;
    int prefetchable;
};

static FILE *open_attribute(const char *address, const char *name, const char *mode)
{
    char path[200];
    snprintf(path, sizeof path, DEVICES "/%s/%s", address, name);
    return fopen(path, mode);
}

static void read_attribute(const char *address, const char *name, char *text, size_t size)
{
    FILE *file = open_attribute(address, name, "r");
    *text = 0;
    if (file) {
        if (!fgets(text, (int)size, file))
            *text = 0;
        text[strcspn(text, "\n")] = 0;
        fclose(file);
    }
}

/* The largest prefetchable BAR, or else the largest. */
static struct bar memory_bar(const char *address)
{
    struct bar best = {-1, 0, 0};
    unsigned long long start, end, flags;
    FILE *file = open_attribute(address, "resource", "r");
    if (!file)
        say_failure("There is no PCI device at %s.", address);
    for (int index = 0; index < 6 && fscanf(file, "%llx %llx %llx", &start, &end, &flags) == 3; index++) {
        int prefetchable = (flags & PREFETCHABLE) != 0;
        uint64_t size = end - start + 1;
        if (end && (flags & MEMORY) && (prefetchable > best.prefetchable ||
                                        (prefetchable == best.prefetchable && size > best.size)))
            best = (struct bar){index, size, prefetchable};
    }
    fclose(file);
    if (best.index < 0)
        say_failure("The PCI device at %s has no memory.", address);
    return best;
}

static void enable(const char *address)
{
    FILE *file = open_attribute(address, "enable", "w");
    if (!file || fputs("1", file) < 0 || fclose(file))
        say_failure("The PCI device at %s cannot be enabled: %s", address, strerror(errno));
}

static unsigned char *map(const char *address, struct bar bar)
{
    char path[200];
    snprintf(path, sizeof path, DEVICES "/%s/resource%d_wc", address, bar.index);
    int file = open(path, O_RDWR | O_SYNC);
    if (file < 0) {
        *strrchr(path, '_') = 0;
        file = open(path, O_RDWR | O_SYNC);
    }
    void *memory = file < 0 ? MAP_FAILED : mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
        say_failure("%s cannot be mapped: %s", path, strerror(errno));
    close(file);
    return memory;
}

static void make_wanted(uint64_t seed, uint64_t offset, size_t size, int zeros)
{
    uint64_t *words = (uint64_t *)wanted;
    for (size_t index = 0; index < size / 8; index++)
        words[index] = zeros ? 0 : pattern_word(seed, offset / 8 + index);
}

static double write_all(unsigned char *memory, uint64_t total, uint64_t seed, int zeros)
{
    double began = now_seconds();
    for (uint64_t offset = 0; offset < total; offset += CHUNK) {
        size_t size = total - offset < CHUNK ? total - offset : CHUNK;
        make_wanted(seed, offset, size, zeros);
        memcpy(memory + offset, wanted, size);
        say_progress(zeros ? "zero" : "fill", offset + size, total);
    }
    return now_seconds() - began;
}

/* Ordinary loads from write-combined memory cross the bus one by one; streaming loads fetch whole lines. */
__attribute__((target("sse4.1"))) static void stream(unsigned char *target, unsigned char *source, size_t size)
{
    for (size_t at = 0; at < size; at += sizeof(__m128i))
        _mm_store_si128((__m128i *)(target + at), _mm_stream_load_si128((__m128i *)(source + at)));
}

static void fetch(unsigned char *target, unsigned char *source, size_t size)
{
    if (__builtin_cpu_supports("sse4.1") && size % sizeof(__m128i) == 0)
        stream(target, source, size);
    else
        memcpy(target, source, size);
}

/* Counts the chunks that are not as written. */
static double read_all(unsigned char *memory, uint64_t total, uint64_t seed, int zeros, struct result *result)
{
    double began = now_seconds();
    for (uint64_t offset = 0; offset < total; offset += CHUNK) {
        size_t size = total - offset < CHUNK ? total - offset : CHUNK;
        make_wanted(seed, offset, size, zeros);
        fetch(seen, memory + offset, size);
        if (memcmp(seen, wanted, size)) {
            size_t place = 0;
            while (seen[place] == wanted[place])
                place++;
            if (!result->mismatches++)
                result->first_mismatch = (int64_t)(offset + place);
        }
        say_progress(zeros ? "check" : "read", offset + size, total);
    }
    return now_seconds() - began;
}

int main(int count, char **words)
{
    struct result result = {.variant = "plain", .driver = "none", .first_mismatch = -1};
    char vendor[20], device[20];
    take_nonce(count > 1 ? words[1] : "");
    if (count != 3)
        say_failure("usage: plain NONCE ADDRESS");
    const char *address = words[2];
    struct bar bar = memory_bar(address);
    enable(address);
    unsigned char *memory = map(address, bar);
    uint64_t seed = pattern_seed(report_nonce);
    read_attribute(address, "vendor", vendor, sizeof vendor);
    read_attribute(address, "device", device, sizeof device);
    snprintf(result.device, sizeof result.device, "%.4s:%.4s", vendor + 2, device + 2);
    result.total = result.reached = bar.size;
    result.fill = write_all(memory, bar.size, seed, 0);
    SPOIL(memory);
    result.read = read_all(memory, bar.size, seed, 0, &result);
    result.zero = write_all(memory, bar.size, seed, 1);
    result.check = read_all(memory, bar.size, seed, 1, &result);
    say_result(&result);
    return 0;
}
