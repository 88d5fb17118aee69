/* The scrub program for any card with an OpenCL driver. Usage: opencl NONCE [gpu|any [LIMIT_MIB]]
 *
 * It allocates all that can be had, writes a pattern over it and compares it on the card, then zeros. What the
 * driver keeps for itself is out of reach. UNVERIFIED on cards: it has been run on a processor (PoCL) alone. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include "pattern.h"
#include "report.h"

#ifndef SPOIL /* the tests' way to see what it says of memory that does not keep what is written */
#define SPOIL(chunk, seed)
#endif
#define LARGEST (256ull << 20)
#define SMALLEST (2ull << 20)
#define MOST_CHUNKS 65536
#define ITEMS (1u << 16)

/* pattern_word is that of pattern.h. The counters: words that are not as written, the lowest 32-bit word number
 * of one within its chunk. */
static const char *const KERNELS =
    "ulong pattern_word(ulong seed, ulong place) {\n"
    "    ulong word = seed + (place + 1) * 0x9e3779b97f4a7c15ul;\n"
    "    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ul;\n"
    "    word = (word ^ word >> 27) * 0x94d049bb133111ebul;\n"
    "    return word ^ word >> 31;\n"
    "}\n"
    "kernel void write_words(global ulong *words, ulong count, ulong seed, ulong first, int zeros) {\n"
    "    for (ulong index = get_global_id(0); index < count; index += get_global_size(0))\n"
    "        words[index] = zeros ? 0 : pattern_word(seed, first + index);\n"
    "}\n"
    "kernel void compare(global const ulong *words, ulong count, ulong seed, ulong first, int zeros,\n"
    "                    global volatile uint *counters) {\n"
    "    for (ulong index = get_global_id(0); index < count; index += get_global_size(0))\n"
    "        if (words[index] != (zeros ? 0 : pattern_word(seed, first + index))) {\n"
    "            atomic_inc(&counters[0]);\n"
    "            atomic_min(&counters[1], (uint)index);\n"
    "        }\n"
    "}\n";

struct chunk {
    cl_mem memory;
    cl_ulong size, offset;
};

static struct chunk chunks[MOST_CHUNKS];
static int chunk_count;
static cl_context context;
static cl_command_queue queue;
static cl_kernel writer, comparer;
static cl_mem counters;

static void check(cl_int status, const char *what)
{
    if (status != CL_SUCCESS)
        say_failure("%s: OpenCL error %d", what, status);
}

/* The first device of that type on any platform. */
static cl_device_id find_device(cl_device_type type)
{
    cl_platform_id platforms[16];
    cl_uint count = 0;
    cl_device_id device;
    if (clGetPlatformIDs(16, platforms, &count) == CL_SUCCESS)
        for (cl_uint number = 0; number < count && number < 16; number++)
            if (clGetDeviceIDs(platforms[number], type, 1, &device, NULL) == CL_SUCCESS)
                return device;
    say_failure("OpenCL knows no such device.");
    return NULL;
}

static void prepare(cl_device_id device)
{
    cl_int status;
    context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    check(status, "context");
    queue = clCreateCommandQueue(context, device, 0, &status);
    check(status, "queue");
    const char *source = KERNELS;
    cl_program program = clCreateProgramWithSource(context, 1, &source, NULL, &status);
    check(status, "program");
    check(clBuildProgram(program, 1, &device, "", NULL, NULL), "program");
    writer = clCreateKernel(program, "write_words", &status);
    check(status, "kernel");
    comparer = clCreateKernel(program, "compare", &status);
    check(status, "kernel");
    counters = clCreateBuffer(context, CL_MEM_READ_WRITE, 2 * sizeof(cl_uint), NULL, &status);
    check(status, "counters");
}

static cl_int run(cl_kernel kernel, const struct chunk *chunk, cl_ulong seed, cl_int zeros)
{
    cl_ulong count = chunk->size / 8, first = chunk->offset / 8;
    size_t items = ITEMS;
    check(clSetKernelArg(kernel, 0, sizeof chunk->memory, &chunk->memory), "argument");
    check(clSetKernelArg(kernel, 1, sizeof count, &count), "argument");
    check(clSetKernelArg(kernel, 2, sizeof seed, &seed), "argument");
    check(clSetKernelArg(kernel, 3, sizeof first, &first), "argument");
    check(clSetKernelArg(kernel, 4, sizeof zeros, &zeros), "argument");
    if (kernel == comparer)
        check(clSetKernelArg(kernel, 5, sizeof counters, &counters), "argument");
    cl_int status = clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &items, NULL, 0, NULL, NULL);
    return status == CL_SUCCESS ? clFinish(queue) : status;
}

/* Ever smaller pieces until none is left. Drivers allocate at the first use, so each piece is used at once. */
static cl_ulong allocate_all(cl_ulong largest, cl_ulong limit)
{
    cl_ulong reached = 0;
    for (cl_ulong size = LARGEST; size >= SMALLEST; size /= 2)
        while (size <= largest && chunk_count < MOST_CHUNKS && reached + size <= limit) {
            cl_int status;
            struct chunk *next = &chunks[chunk_count];
            next->memory = clCreateBuffer(context, CL_MEM_READ_WRITE, size, NULL, &status);
            if (status != CL_SUCCESS)
                break;
            next->size = size;
            next->offset = reached;
            if (run(writer, next, 0, 1) != CL_SUCCESS) {
                clReleaseMemObject(next->memory);
                break;
            }
            reached += size;
            chunk_count++;
        }
    return reached;
}

static double write_all(cl_ulong total, cl_ulong seed, cl_int zeros)
{
    double began = now_seconds();
    for (int number = 0; number < chunk_count; number++) {
        check(run(writer, &chunks[number], seed, zeros), "write");
        say_progress(zeros ? "zero" : "fill", chunks[number].offset + chunks[number].size, total);
    }
    return now_seconds() - began;
}

static double compare_all(cl_ulong total, cl_ulong seed, cl_int zeros, struct result *result)
{
    double began = now_seconds();
    for (int number = 0; number < chunk_count; number++) {
        cl_uint found[2] = {0, UINT32_MAX};
        check(clEnqueueWriteBuffer(queue, counters, CL_TRUE, 0, sizeof found, found, 0, NULL, NULL), "counters");
        check(run(comparer, &chunks[number], seed, zeros), "compare");
        check(clEnqueueReadBuffer(queue, counters, CL_TRUE, 0, sizeof found, found, 0, NULL, NULL), "counters");
        if (found[0] && result->first_mismatch < 0)
            result->first_mismatch = (int64_t)(chunks[number].offset + 8ull * found[1]);
        result->mismatches += found[0];
        say_progress(zeros ? "check" : "read", chunks[number].offset + chunks[number].size, total);
    }
    return now_seconds() - began;
}

static void describe(cl_device_id device, cl_device_info what, char *target, size_t size)
{
    char text[200] = "";
    clGetDeviceInfo(device, what, sizeof text - 1, text, NULL);
    keep_plain(target, size, text);
}

int main(int count, char **words)
{
    struct result result = {.variant = "opencl", .first_mismatch = -1};
    cl_ulong largest = 0;
    take_nonce(count > 1 ? words[1] : "");
    int any = count > 2 && !strcmp(words[2], "any");
    cl_device_id device = find_device(any ? CL_DEVICE_TYPE_ALL : CL_DEVICE_TYPE_GPU);
    describe(device, CL_DEVICE_NAME, result.device, sizeof result.device);
    describe(device, CL_DRIVER_VERSION, result.driver, sizeof result.driver);
    check(clGetDeviceInfo(device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof result.total, &result.total, NULL), "device");
    check(clGetDeviceInfo(device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof largest, &largest, NULL), "device");
    prepare(device);
    result.reached = allocate_all(largest, count > 3 ? strtoull(words[3], NULL, 10) << 20 : ~0ull);
    if (!result.reached)
        say_failure("No memory of the device could be allocated.");
    uint64_t seed = pattern_seed(report_nonce);
    result.fill = write_all(result.reached, seed, 0);
    SPOIL(&chunks[chunk_count - 1], seed);
    result.read = compare_all(result.reached, seed, 0, &result);
    result.zero = write_all(result.reached, seed, 1);
    result.check = compare_all(result.reached, seed, 1, &result);
    say_result(&result);
    return 0;
}
