/* What a scrub program says, as lines of JSON on its standard output. Each line carries the nonce that the host
 * gave for this run, so that no line of another run is taken for one of this. Texts are made of characters that
 * JSON needs not escape. */
#ifndef REPORT_H
#define REPORT_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#define PROGRAM_VERSION "1"
#define LINE_EVERY_SECONDS 1.0

static const char *report_nonce = "";
static double report_last;

/* All that the last line tells. Sizes in bytes, times in seconds; first_mismatch is -1 where there is none. */
struct result {
    const char *variant;
    char device[200];
    char driver[200];
    uint64_t total, reached, mismatches;
    int64_t first_mismatch;
    double fill, read, zero, check;
};

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Keeps letters, digits, spaces and a few signs, so that the text needs no escaping. */
static void keep_plain(char *target, size_t size, const char *text)
{
    size_t length = 0;
    for (; *text && length + 1 < size; text++)
        if (strchr(" .,:;()[]/@_+-", *text) || (*text >= '0' && *text <= '9') || (*text >= 'A' && *text <= 'Z') ||
            (*text >= 'a' && *text <= 'z'))
            target[length++] = *text;
    target[length] = 0;
}

static void say_progress(const char *phase, uint64_t done, uint64_t total)
{
    double now = now_seconds();
    if (done < total && now - report_last < LINE_EVERY_SECONDS)
        return;
    report_last = now;
    printf("{\"nonce\":\"%s\",\"phase\":\"%s\",\"done\":%llu,\"total\":%llu}\n", report_nonce, phase,
           (unsigned long long)done, (unsigned long long)total);
    fflush(stdout);
}

static void say_failure(const char *format, ...)
{
    char text[400], plain[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    keep_plain(plain, sizeof plain, text);
    printf("{\"nonce\":\"%s\",\"failure\":\"%s\"}\n", report_nonce, plain);
    fflush(stdout);
    exit(1);
}

static void say_result(const struct result *result)
{
    struct utsname system;
    char kernel[100];
    uname(&system);
    keep_plain(kernel, sizeof kernel, system.release);
    printf("{\"nonce\":\"%s\",\"result\":{\"variant\":\"%s\",\"program\":\"%s\",\"kernel\":\"%s\",\"driver\":\"%s\","
           "\"device\":\"%s\",\"total_bytes\":%llu,\"reached_bytes\":%llu,\"mismatches\":%llu,\"first_mismatch\":%lld,"
           "\"seconds\":{\"fill\":%.3f,\"read\":%.3f,\"zero\":%.3f,\"check\":%.3f}}}\n",
           report_nonce, result->variant, PROGRAM_VERSION, kernel, result->driver, result->device,
           (unsigned long long)result->total, (unsigned long long)result->reached,
           (unsigned long long)result->mismatches, (long long)result->first_mismatch, result->fill, result->read,
           result->zero, result->check);
    fflush(stdout);
}

/* The nonce is hexadecimal, or nothing is said at all. */
static void take_nonce(const char *text)
{
    if (!*text || strlen(text) > 64 || strspn(text, "0123456789abcdef") != strlen(text)) {
        fprintf(stderr, "usage: a nonce of at most 64 hexadecimal digits comes first\n");
        exit(2);
    }
    report_nonce = text;
    setvbuf(stdout, NULL, _IOLBF, 0);
}

#endif
