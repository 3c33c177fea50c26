/*
 * Sends every TCP client a line "COUNTER NANOSECONDS" (CLOCK_MONOTONIC) 100 times a second. The counter grows by one
 * per line, so a missing number is lost data, and a late line is a gap that the client felt.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS 64
#define TICKS_PER_SECOND 100

struct client {
    char rest[64]; /* the end of a line of which the socket took only a part */
    size_t length;
};

static struct pollfd polled[2 + CLIENTS]; /* the timer, the listener, the clients */
static struct client clients[CLIENTS];
static nfds_t used = 2;

static void die(const char *what)
{
    perror(what);
    exit(1);
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
    int fd = accept4(polled[1].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (used == 2 + CLIENTS) {
        close(fd);
        return;
    }
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)
        || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room))
        die("tick: setsockopt");
    clients[used - 2].length = 0;
    polled[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

/* Returns 0 when the client is gone. A full socket costs the client this line, never a torn one. */
static int deliver(nfds_t i, const char *line, size_t length)
{
    struct client *c = &clients[i - 2];
    const char *data = c->length ? c->rest : line;
    size_t size = c->length ? c->length : length;

    ssize_t sent = send(polled[i].fd, data, size, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR;
    if ((size_t)sent < size) {
        memmove(c->rest, data + sent, size - (size_t)sent);
        c->length = size - (size_t)sent;
        return 1;
    }
    if (!c->length)
        return 1;
    c->length = 0;
    return deliver(i, line, length);
}

static int still_there(nfds_t i)
{
    char ignored[256];
    ssize_t n = recv(polled[i].fd, ignored, sizeof ignored, MSG_DONTWAIT);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void tick(void)
{
    static uint64_t counter;
    uint64_t missed;
    struct timespec t;
    char line[64];

    if (read(polled[0].fd, &missed, sizeof missed) != sizeof missed)
        return;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int length = snprintf(line, sizeof line, "%" PRIu64 " %" PRIu64 "\n", ++counter,
                          (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec);
    for (nfds_t i = used; i-- > 2;)
        if (!deliver(i, line, (size_t)length))
            leave(i);
}

int tick_main(int argc, char **argv)
{
    int on = 1;
    int port = argc > 1 ? atoi(argv[1]) : 7000;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct itimerspec pace = {.it_interval.tv_nsec = 1000000000 / TICKS_PER_SECOND, .it_value.tv_nsec = 1};

    polled[0] = (struct pollfd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), .events = POLLIN};
    polled[1] = (struct pollfd){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .events = POLLIN};
    if (polled[0].fd < 0 || timerfd_settime(polled[0].fd, 0, &pace, NULL))
        die("tick: timer");
    if (polled[1].fd < 0 || setsockopt(polled[1].fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)
        || bind(polled[1].fd, (struct sockaddr *)&here, sizeof here) || listen(polled[1].fd, 16))
        die("tick: listen");
    for (;;) {
        if (poll(polled, used, -1) < 0 && errno != EINTR)
            die("tick: poll");
        for (nfds_t i = used; i-- > 2;)
            if (polled[i].revents && !still_there(i))
                leave(i);
        if (polled[1].revents)
            welcome();
        if (polled[0].revents)
            tick();
    }
}
