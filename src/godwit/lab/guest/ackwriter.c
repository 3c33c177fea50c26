/*
 * Writes numbered records to a file, past the page cache, each one flushed before the next (O_DSYNC), and says each
 * number to its TCP clients only when it is on the disk. A client sends a token whenever it likes; a record holds the
 * token that came last. A second copy of the guest that ran somewhere would go on with tokens of its own, into the same
 * places: what was said would not be what is found.
 *
 * To a client go lines "NUMBER TOKEN". From it come lines: a token, or "dump NUMBER", which is answered with a line
 * "= NUMBER TOKEN" for each whole record from that number on, read from the disk anew, and with "end".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RECORD 512u
#define CHUNK 128u /* records that are read at once */
#define MAX_CLIENTS 16u
#define MAGIC 0x6b6361776e616d00ull

struct record {
    uint64_t magic, number, token, check;
    char rest[RECORD - 4 * sizeof(uint64_t)];
};

static struct pollfd polled[2 + MAX_CLIENTS];
static struct { char line[64]; size_t length; } clients[MAX_CLIENTS];
static nfds_t used = 2;
static int file;
static uint64_t number, token, slots = 8192;
static struct record *chunk;

static void die(const char *doing)
{
    fprintf(stderr, "ackwriter: %s: %s\n", doing, strerror(errno));
    exit(1);
}

static uint64_t mixed(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9e3779b97f4a7c15ull ^ (b + 0x632be59bd9b4e019ull);
    x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9ull;
    return x ^ (x >> 29);
}

static int whole(const struct record *r)
{
    return r->magic == MAGIC && r->check == mixed(r->number, r->token);
}

static void read_chunk(uint64_t first)
{
    if (pread(file, chunk, CHUNK * RECORD, (off_t)(first * RECORD)) != (ssize_t)(CHUNK * RECORD))
        die("reading");
}

static void lay_out(const char *path)
{
    int made = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (made < 0 && errno != EEXIST)
        die(path);
    if (made >= 0) { /* real blocks: no record changes what the file system keeps of the file */
        memset(chunk, 0, CHUNK * RECORD);
        for (uint64_t i = 0; i < slots; i += CHUNK)
            if (write(made, chunk, CHUNK * RECORD) != (ssize_t)(CHUNK * RECORD))
                die(path);
        if (fsync(made) || close(made))
            die(path);
        sync();
    }
    file = open(path, O_RDWR | O_DIRECT | O_DSYNC);
    if (file < 0)
        die(path);
    for (uint64_t i = 0; i < slots; i += CHUNK) {
        read_chunk(i);
        for (unsigned j = 0; j < CHUNK; j++)
            if (whole(&chunk[j]) && chunk[j].number > number)
                number = chunk[j].number;
    }
}

static void leave(nfds_t i)
{
    close(polled[i].fd);
    used--;
    polled[i] = polled[used];
    clients[i - 2] = clients[used - 2];
}

static void welcome(void)
{
    int on = 1, room = 1 << 20;
    int fd = accept4(polled[1].fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    if (used == 2 + MAX_CLIENTS || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)
        || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room)) {
        close(fd);
        return;
    }
    clients[used - 2].length = 0;
    polled[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

/* What does not fit into the socket's room is no longer a line: the client is let go, and sees it. */
static int say(int fd, const char *text, int length, int flags)
{
    return send(fd, text, (size_t)length, MSG_NOSIGNAL | flags) == length;
}

static int dump(int fd, uint64_t from)
{
    char line[64];

    for (uint64_t i = 0; i < slots; i += CHUNK) {
        read_chunk(i);
        for (unsigned j = 0; j < CHUNK; j++) {
            if (!whole(&chunk[j]) || chunk[j].number < from)
                continue;
            int length = snprintf(line, sizeof line, "= %" PRIu64 " %" PRIu64 "\n", chunk[j].number, chunk[j].token);
            if (!say(fd, line, length, 0))
                return 0;
        }
    }
    return say(fd, "end\n", 4, 0);
}

static int obey(nfds_t i, const char *line)
{
    if (!strncmp(line, "dump ", 5))
        return dump(polled[i].fd, strtoull(line + 5, NULL, 10));
    token = strtoull(line, NULL, 10);
    return 1;
}

static int listen_to(nfds_t i)
{
    char *line = clients[i - 2].line, *end;
    size_t *length = &clients[i - 2].length;
    ssize_t n = recv(polled[i].fd, line + *length, sizeof clients[0].line - 1 - *length, MSG_DONTWAIT);

    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    *length += (size_t)n;
    line[*length] = 0;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        if (!obey(i, line))
            return 0;
        *length -= (size_t)(end + 1 - line);
        memmove(line, end + 1, *length + 1);
    }
    return *length < sizeof clients[0].line - 1;
}

static void write_one(struct record *next)
{
    uint64_t missed;
    char line[64];

    if (read(polled[0].fd, &missed, sizeof missed) != sizeof missed)
        return;
    number++;
    next->magic = MAGIC;
    next->number = number;
    next->token = token;
    next->check = mixed(number, token);
    if (pwrite(file, next, RECORD, (off_t)(number % slots * RECORD)) != (ssize_t)RECORD)
        die("writing");
    int length = snprintf(line, sizeof line, "%" PRIu64 " %" PRIu64 "\n", number, next->token);
    for (nfds_t i = used; i-- > 2;)
        if (!say(polled[i].fd, line, length, MSG_DONTWAIT))
            leave(i);
}

static void open_up(int port, long rate)
{
    int on = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct itimerspec pace = {.it_interval.tv_nsec = 1000000000 / rate, .it_value.tv_nsec = 1};

    polled[0] = (struct pollfd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), .events = POLLIN};
    polled[1] = (struct pollfd){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .events = POLLIN};
    if (polled[0].fd < 0 || timerfd_settime(polled[0].fd, 0, &pace, NULL))
        die("timer");
    if (polled[1].fd < 0 || setsockopt(polled[1].fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)
        || bind(polled[1].fd, (struct sockaddr *)&here, sizeof here) || listen(polled[1].fd, 16))
        die("listen");
}

int ackwriter_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"file", required_argument, NULL, 'f'}, {"port", required_argument, NULL, 'p'},
        {"rate", required_argument, NULL, 'r'}, {NULL, 0, NULL, 0},
    };
    const char *path = NULL;
    long rate = 50;
    int option, port = 7001;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'f': path = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'r': rate = atol(optarg); break;
        default: return 2;
        }
    }
    if (!path || rate < 2 || rate > 10000 || optind != argc) {
        fprintf(stderr, "usage: ackwriter --file PATH [--port 7001] [--rate WRITES_PER_SECOND]\n");
        return 2;
    }
    chunk = aligned_alloc(4096, CHUNK * RECORD);
    struct record *next = aligned_alloc(4096, 4096);
    if (!chunk || !next)
        die("memory");
    memset(next, 0, RECORD);
    lay_out(path);
    open_up(port, rate);
    for (;;) {
        if (poll(polled, used, -1) < 0 && errno != EINTR)
            die("poll");
        for (nfds_t i = used; i-- > 2;)
            if (polled[i].revents && !listen_to(i))
                leave(i);
        if (polled[1].revents)
            welcome();
        if (polled[0].revents)
            write_one(next);
    }
}
