/*
 * Writes blocks of a file at a known rate, past the page cache: every write is one that the disk sees. With --sync each
 * one is also flushed before the next (O_DSYNC). The file is laid out first, so that no write changes what the file
 * system keeps of it. Every second a line says how many writes were done in all and the longest that one took.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096u
#define SECOND_NS 1000000000ull

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t when)
{
    struct timespec t = {.tv_sec = (time_t)(when / SECOND_NS), .tv_nsec = (long)(when % SECOND_NS)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

static void die(const char *doing)
{
    fprintf(stderr, "diskwriter: %s: %s\n", doing, strerror(errno));
    exit(1);
}

static void write_block(int file, const uint64_t *block, uint64_t number)
{
    if (pwrite(file, block, BLOCK, (off_t)(number * BLOCK)) != (ssize_t)BLOCK)
        die("writing");
}

static int lay_out(const char *path, const uint64_t *block, uint64_t blocks, int sync_each)
{
    int file = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (file < 0)
        die(path);
    for (uint64_t i = 0; i < blocks; i++)
        write_block(file, block, i);
    if (fsync(file) || close(file))
        die(path);
    file = open(path, O_RDWR | O_DIRECT | (sync_each ? O_DSYNC : 0));
    if (file < 0)
        die(path);
    return file;
}

static void run(int file, uint64_t *block, uint64_t blocks, uint64_t rate)
{
    uint64_t wake = now(), reported = wake, total = 0, longest = 0;

    for (;;) {
        sleep_until(wake);
        uint64_t began = now();
        block[0] = total;
        write_block(file, block, total * 2654435761u % blocks); /* places far from each other */
        uint64_t ended = now();
        total++;
        if (ended - began > longest)
            longest = ended - began;
        if (ended - reported >= SECOND_NS) {
            printf("diskwriter t=%.3f total=%" PRIu64 " longest_ms=%.1f\n", (double)ended / SECOND_NS, total,
                   (double)longest / 1e6);
            fflush(stdout);
            reported = ended;
            longest = 0;
        }
        wake += SECOND_NS / rate;
        if (ended > wake) /* no burst after a pause: what was not written in time is left out */
            wake = ended;
    }
}

int diskwriter_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"rate", required_argument, NULL, 'r'}, {"blocks", required_argument, NULL, 'b'},
        {"file", required_argument, NULL, 'f'}, {"sync", no_argument, NULL, 's'}, {NULL, 0, NULL, 0},
    };
    const char *path = NULL;
    uint64_t rate = 0, blocks = 0;
    int option, sync_each = 0;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'r': rate = strtoull(optarg, NULL, 10); break;
        case 'b': blocks = strtoull(optarg, NULL, 10); break;
        case 'f': path = optarg; break;
        case 's': sync_each = 1; break;
        default: return 2;
        }
    }
    if (!rate || !blocks || !path || optind != argc) {
        fprintf(stderr, "usage: diskwriter --rate WRITES_PER_SECOND --blocks NUMBER --file PATH [--sync]\n");
        return 2;
    }
    uint64_t *block = aligned_alloc(BLOCK, BLOCK);
    if (!block)
        die("memory");
    for (unsigned i = 0; i < BLOCK / sizeof *block; i++)
        block[i] = i * 0x9e3779b97f4a7c15ull;
    run(lay_out(path, block, blocks, sync_each), block, blocks, rate);
    return 0;
}
