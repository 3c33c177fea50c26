/*
 * Writes memory at a known rate: a hot set of pages is gone through in a circle, so that within one round every
 * written page is a distinct one, and every write changes what the page holds.
 *
 * Of a page of the pattern "third" a third is random and the rest one value, so that it compresses to little more.
 *
 * --rate counts whole pages: N bytes per second make N / 4096 pages dirty per second, however few bytes of each page
 * are rewritten (--bytes-per-page).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define SLICE_NS 2000000ull
#define SECOND_NS 1000000000ull

struct work {
    uint64_t *memory;
    uint64_t *sums; /* one per page; only with --verify */
    uint64_t pages;
    uint64_t words; /* of each page that are rewritten */
    uint64_t state; /* of the generator */
    int counter;
    int third;
};

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

static uint64_t bytes(const char *text, const char *option)
{
    char *end;
    double value = strtod(text, &end);
    switch (*end) {
    case 'k': case 'K': value *= 1024.0; end++; break;
    case 'm': case 'M': value *= 1024.0 * 1024.0; end++; break;
    case 'g': case 'G': value *= 1024.0 * 1024.0 * 1024.0; end++; break;
    default: break;
    }
    if (end == text || *end || value < 0) {
        fprintf(stderr, "memwriter: %s: '%s' is no number of bytes\n", option, text);
        exit(2);
    }
    return (uint64_t)value;
}

/* xorshift64*: cheap under emulation, and nothing that a compressor could use. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

/* Position-dependent, so that exchanged words are noticed too; of the whole page. */
static uint64_t checksum(const uint64_t *page)
{
    uint64_t sum = 0x9e3779b97f4a7c15ull;
    for (unsigned i = 0; i < WORDS; i++)
        sum = (sum ^ page[i]) * 0x100000001b3ull + (sum >> 29);
    return sum;
}

static void check(const struct work *w, uint64_t index)
{
    if (checksum(w->memory + index * WORDS) == w->sums[index])
        return;
    /* Into the log and onto the console. */
    printf("CORRUPT page %" PRIu64 " of %" PRIu64 "\n", index, w->pages);
    fflush(stdout);
    fprintf(stderr, "memwriter: CORRUPT page %" PRIu64 " of %" PRIu64 "\n", index, w->pages);
    exit(1);
}

static void write_page(struct work *w, uint64_t index)
{
    uint64_t *page = w->memory + index * WORDS;
    if (w->sums)
        check(w, index);
    const uint64_t random = w->third ? w->words / 3 : w->words, value = next_random(&w->state);
    for (uint64_t i = 0; i < w->words; i++)
        page[i] = w->counter ? page[i] + 1 : i < random ? next_random(&w->state) : value;
    if (w->sums)
        w->sums[index] = checksum(page);
}

static void *allocate(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "memwriter: %" PRIu64 " bytes of memory: %s\n", size, strerror(errno));
        exit(1);
    }
    return memory;
}

static void prepare(struct work *w, int verify)
{
    w->memory = allocate(w->pages * PAGE);
    for (uint64_t i = 0; i < w->pages * WORDS; i++)
        w->memory[i] = w->third && i % WORDS >= WORDS / 3 ? i / WORDS : next_random(&w->state);
    if (!verify)
        return;
    w->sums = allocate(w->pages * sizeof(uint64_t));
    for (uint64_t i = 0; i < w->pages; i++)
        w->sums[i] = checksum(w->memory + i * WORDS);
}

static void run(struct work *w, uint64_t rate)
{
    const uint64_t start = now();
    /* What could not be written in time is made up for, but only so much: after a blackout no burst follows. */
    const double most = (double)rate / PAGE * 0.05 + 1.0;
    uint64_t wake = start, before = start, reported = start, written = 0, total = 0, checked = 0;
    uint64_t cursor = 0, sweep = w->pages / 2;
    double due = 0.0;

    for (;;) {
        wake += SLICE_NS;
        sleep_until(wake);
        uint64_t t = now();
        if (t > wake + 25 * SLICE_NS)
            wake = t;
        due += (double)(t - before) / SECOND_NS * (double)rate / PAGE;
        before = t;
        if (due > most)
            due = most;
        for (; due >= 1.0; due -= 1.0) {
            write_page(w, cursor);
            cursor = (cursor + 1) % w->pages;
            written++;
            if (w->sums) { /* a second look half a round away from the writing */
                check(w, sweep);
                sweep = (sweep + 1) % w->pages;
                checked += 2;
            }
        }
        if (t - reported >= SECOND_NS) {
            total += written;
            printf("memwriter t=%.3f rate=%.0f pages=%" PRIu64 " total=%" PRIu64 " checked=%" PRIu64 "\n",
                   (double)t / SECOND_NS, (double)written * PAGE * SECOND_NS / (double)(t - reported), written, total,
                   checked);
            fflush(stdout);
            reported = t;
            written = 0;
        }
    }
}

int memwriter_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"rate", required_argument, NULL, 'r'},    {"set", required_argument, NULL, 's'},
        {"bytes-per-page", required_argument, NULL, 'b'}, {"pattern", required_argument, NULL, 'p'},
        {"verify", no_argument, NULL, 'v'},        {NULL, 0, NULL, 0},
    };
    struct work w = {.words = WORDS, .state = now() | 1};
    uint64_t rate = 0, set = 0;
    int option, verify = 0;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'r': rate = bytes(optarg, "--rate"); break;
        case 's': set = bytes(optarg, "--set"); break;
        case 'b': w.words = bytes(optarg, "--bytes-per-page") / sizeof(uint64_t); break;
        case 'p':
            w.counter = !strcmp(optarg, "counter");
            w.third = !strcmp(optarg, "third");
            if (!w.counter && !w.third && strcmp(optarg, "random")) {
                fprintf(stderr, "memwriter: --pattern is random, third or counter\n");
                return 2;
            }
            break;
        case 'v': verify = 1; break;
        default: return 2;
        }
    }
    w.pages = set / PAGE;
    if (rate < PAGE || !w.pages || !w.words || w.words > WORDS || optind != argc) {
        fprintf(stderr, "usage: memwriter --rate BYTES_PER_SECOND --set BYTES [--bytes-per-page 8..4096]\n"
                        "                 [--pattern random|third|counter] [--verify]\n");
        return 2;
    }
    prepare(&w, verify);
    run(&w, rate);
    return 0;
}
