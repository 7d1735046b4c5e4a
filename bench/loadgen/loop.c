#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#include "connection.h"
#include "fail.h"

enum { EVENTS_PER_TURN = 1024 };

static int epollDescriptor = -1;
static struct connection *toFlush, *toFree;
static int64_t turnStarted, longestTurn, readTime;  // `readTime` 0: not asked for yet.
static uint64_t randomState;

int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t loop_time(void) {
    if (readTime == 0) readTime = now();
    return readTime;
}

uint32_t next_random(void) {  // xorshift64* (Marsaglia; Vigna)
    randomState ^= randomState >> 12;
    randomState ^= randomState << 25;
    randomState ^= randomState >> 27;
    return (uint32_t)((randomState * 0x2545F4914F6CDD1Dull) >> 32);
}

void loop_start(void) {
    randomState = (uint64_t)now() | 1;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL.
    epollDescriptor = epoll_create1(EPOLL_CLOEXEC);
    if (epollDescriptor < 0) fail(EXIT_LOST, "epoll_create1: %s", strerror(errno));
    turnStarted = now();
}

void loop_watch(struct connection *connection, int isNew, uint32_t interest) {
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    if (epoll_ctl(epollDescriptor, isNew ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, connection->fd, &event) != 0) {
        fail(EXIT_LOST, "epoll_ctl: %s", strerror(errno));
    }
}

void loop_flush_later(struct connection *connection) {
    if (connection->isQueuedForFlush) return;
    connection->isQueuedForFlush = true;
    connection->nextToFlush = toFlush;
    toFlush = connection;
}

void loop_free_later(struct connection *connection) {
    connection->nextToFree = toFree;
    toFree = connection;
}

static void flush_all(void) {
    while (toFlush != NULL) {
        struct connection *connection = toFlush;
        toFlush = connection->nextToFlush;
        connection->isQueuedForFlush = false;
        connection_flush(connection);
    }
}

void loop_turn(int64_t timeout) {
    flush_all();
    struct epoll_event events[EVENTS_PER_TURN];
    struct timespec wait = {timeout / 1000000000, timeout % 1000000000};
    int64_t before = now();
    if (before - turnStarted > longestTurn) longestTurn = before - turnStarted;
    int count = epoll_pwait2(epollDescriptor, events, EVENTS_PER_TURN, timeout < 0 ? NULL : &wait, NULL);
    if (count < 0 && errno != EINTR) fail(EXIT_LOST, "epoll_pwait2: %s", strerror(errno));
    turnStarted = timeout == 0 ? before : now();
    for (int i = 0; i < count; i++) {
        readTime = 0;
        connection_ready(events[i].data.ptr, events[i].events);
    }
    readTime = 0;
    flush_all();
    while (toFree != NULL) {
        struct connection *connection = toFree;
        toFree = connection->nextToFree;
        free(connection);
    }
}

int64_t loop_longest_turn(void) {
    int64_t longest = longestTurn;
    longestTurn = 0;
    turnStarted = now();
    return longest;
}
