// Scenario `stream`: one TCP stream through a tunnel, as fast as it goes. This is the program that connects to the
// tunnel's near end, and the one that listens behind its far end.
//
//   --url ---- the tunnel ---- --backend        the bytes go to the back end, or with --toward client come from it
//
// What arrives must be what was sent, to the last byte, and then the end of the stream: the sender closes by half.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fail.h"
#include "scenario.h"

enum {
    PIECE_BYTES = 256 << 10,  // Of a call to the kernel.
    // The stream is this pattern over and over: a prime, so that what is out of place by a buffer's size is noticed.
    PERIOD = 65521,
};

static const int64_t STALL = 20ll * 1000000000;

static char pattern[PERIOD + PIECE_BYTES], piece[PIECE_BYTES];

static struct sockaddr_in address_of(const struct target *target) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(target->port), .sin_addr.s_addr = target->address};
}

static int make_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail(EXIT_LOST, "socket: %s", strerror(errno));
    return fd;
}

static int listen_at(const struct target *target) {
    int fd = make_socket(), on = 1;
    struct sockaddr_in address = address_of(target);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0) {
        fail(EXIT_UNREACHABLE, "cannot listen on port %u: %s", target->port, strerror(errno));
    }
    return fd;
}

static int connect_to(const struct target *target) {
    int fd = make_socket();
    struct sockaddr_in address = address_of(target);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        fail(EXIT_UNREACHABLE, "cannot connect to port %u: %s", target->port, strerror(errno));
    }
    return fd;
}

/// Waits for what a socket is ready for; fails where that is nothing for too long.
static void wait_for(struct pollfd *sockets, int count) {
    int ready = poll(sockets, (nfds_t)count, (int)(STALL / 1000000));
    if (ready == 0) fail(EXIT_LOST, "nothing moved for %d s", (int)(STALL / 1000000000));
    if (ready < 0 && errno != EINTR) fail(EXIT_LOST, "poll: %s", strerror(errno));
}

static int accept_at(int listener) {
    struct pollfd waiting = {.fd = listener, .events = POLLIN};
    wait_for(&waiting, 1);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) fail(EXIT_LOST, "accept: %s", strerror(errno));
    return fd;
}

static struct {
    int source, sink;
    uint64_t sent, received;
    bool isEnding, hasEnded;
} run;

static void send_some(void) {
    ssize_t count = send(run.source, pattern + run.sent % PERIOD, PIECE_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0) run.sent += (uint64_t)count;
    else if (errno != EAGAIN && errno != EINTR) fail(EXIT_LOST, "send: %s", strerror(errno));
}

static void receive_some(void) {
    ssize_t count = recv(run.sink, piece, PIECE_BYTES, MSG_DONTWAIT);
    if (count > 0) {
        if (memcmp(piece, pattern + run.received % PERIOD, (size_t)count) != 0) {
            fail(EXIT_LOST, "bytes were lost, reordered, duplicated or altered behind %llu",
                 (unsigned long long)run.received);
        }
        run.received += (uint64_t)count;
    } else if (count == 0) {
        if (!run.isEnding || run.received != run.sent) {
            fail(EXIT_LOST, "the stream ended behind %llu of %llu bytes", (unsigned long long)run.received,
                 (unsigned long long)run.sent);
        }
        run.hasEnded = true;
    } else if (errno != EAGAIN && errno != EINTR) {
        fail(EXIT_LOST, "receive: %s", strerror(errno));
    }
}

static void turn(void) {
    struct pollfd sockets[] = {{.fd = run.sink, .events = POLLIN}, {.fd = run.source, .events = POLLOUT}};
    wait_for(sockets, run.isEnding ? 1 : 2);
    if (sockets[0].revents != 0) receive_some();
    if (!run.isEnding && sockets[1].revents != 0) send_some();
}

static void run_for(int64_t duration) {
    for (int64_t end = now() + duration; now() < end;) turn();
}

void stream_run(const struct options *options) {
    if (options->backend == NULL) fail(EXIT_USAGE, "stream needs --backend");
    for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (char)(i % PERIOD * 2654435761u >> 24);
    int listener = listen_at(options->backend);
    int near = connect_to(&options->target), far = accept_at(listener);
    run.source = options->isTowardClient ? far : near;
    run.sink = options->isTowardClient ? near : far;
    run_for(options->warmup);

    struct usage before = usage_of_all(options->processes, options->processCount), ownBefore = usage_of(getpid());
    uint64_t receivedBefore = run.received;
    int64_t started = now();
    run_for(options->duration);
    double seconds = (double)(now() - started) / 1e9, bytes = (double)(run.received - receivedBefore);
    struct usage after = usage_of_all(options->processes, options->processCount), ownAfter = usage_of(getpid());

    run.isEnding = true;
    if (shutdown(run.source, SHUT_WR) != 0) fail(EXIT_LOST, "shutdown: %s", strerror(errno));
    while (!run.hasEnded) turn();
    if (bytes == 0) fail(EXIT_LOST, "nothing arrived in the measured window");
    double cpu = (double)(after.cpu - before.cpu) / 1e9;
    printf("{\"scenario\": \"stream\", \"seconds\": %.3f, \"bytes\": %.0f, \"bytesPerSecond\": %.0f, "
           "\"relay\": {\"cpuSecondsPerGiB\": %.4f, \"coresUsed\": %.3f, \"waitedForCoreMilliseconds\": %.1f, "
           "\"peakResidentKiB\": %lld}, \"generator\": {\"coresUsed\": %.3f}}\n",
           seconds, bytes, bytes / seconds, cpu / (bytes / (1 << 30)), cpu / seconds,
           (double)(after.waited - before.waited) / 1e6, (long long)after.peakResidentKiB,
           (double)(ownAfter.cpu - ownBefore.cpu) / 1e9 / seconds);
}
