#define _GNU_SOURCE
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fail.h"

enum {
    EVENTS_PER_TURN = 1024,
    RECEIVE_BYTES = 256 << 10,
    MESSAGE_BYTES = 64 << 20,  // A relay that says more is broken.
};

static int epollDescriptor = -1;
static struct connection *toFlush;
static struct bytes received;  // Shared by all connections: what one recv brings, after what was left of the last.
static int64_t turnStarted, longestTurn;
static uint64_t randomState;

// MARK: Small things

void fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(status);
}

int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

uint32_t next_random(void) {  // xorshift64* (Marsaglia; Vigna)
    randomState ^= randomState >> 12;
    randomState ^= randomState << 25;
    randomState ^= randomState >> 27;
    return (uint32_t)((randomState * 0x2545F4914F6CDD1Dull) >> 32);
}

/// Makes room for `additional` bytes behind the filled part.
static void reserve(struct bytes *bytes, size_t additional) {
    size_t needed = bytes->length + additional;
    if (needed <= bytes->capacity) return;
    size_t capacity = bytes->capacity < 256 ? 256 : bytes->capacity;
    while (capacity < needed) capacity *= 2;
    bytes->start = realloc(bytes->start, capacity);
    if (bytes->start == NULL) fail(EXIT_LOST, "out of memory");
    bytes->capacity = capacity;
}

static void append(struct bytes *bytes, const void *source, size_t length) {
    if (length == 0) return;
    reserve(bytes, length);
    memcpy(bytes->start + bytes->length, source, length);
    bytes->length += length;
}

static void release(struct bytes *bytes) {
    free(bytes->start);
    *bytes = (struct bytes){0};
}

// MARK: The loop

void loop_start(void) {
    randomState = (uint64_t)now() | 1;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    epollDescriptor = epoll_create1(EPOLL_CLOEXEC);
    if (epollDescriptor < 0) fail(EXIT_LOST, "epoll_create1: %s", strerror(errno));
    turnStarted = now();
}

static void watch(struct connection *connection, int operation, uint32_t interest) {
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    if (epoll_ctl(epollDescriptor, operation, connection->fd, &event) != 0) {
        fail(EXIT_LOST, "epoll_ctl: %s", strerror(errno));
    }
}

static void queue_for_flush(struct connection *connection) {
    if (connection->isQueuedForFlush || connection->isWaitingForWritable) return;
    connection->isQueuedForFlush = true;
    connection->nextToFlush = toFlush;
    toFlush = connection;
}

static void flush(struct connection *connection) {
    struct bytes *output = &connection->output;
    while (connection->outputSent < output->length) {
        ssize_t count = send(connection->fd, output->start + connection->outputSent,
                             output->length - connection->outputSent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && errno == EAGAIN) {
            if (!connection->isWaitingForWritable) watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            connection->isWaitingForWritable = true;
            return;
        }
        if (count < 0) fail(EXIT_LOST, "the relay cut a connection that was being sent to: %s", strerror(errno));
        connection->outputSent += (size_t)count;
    }
    output->length = connection->outputSent = 0;
    if (connection->isWaitingForWritable) {
        connection->isWaitingForWritable = false;
        watch(connection, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void receive(struct connection *connection);
static void connected(struct connection *connection);

static void flush_all(void) {
    while (toFlush != NULL) {
        struct connection *connection = toFlush;
        toFlush = connection->nextToFlush;
        connection->isQueuedForFlush = false;
        if (connection->state == AWAITING_101 || connection->state == OPEN) flush(connection);
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
        struct connection *connection = events[i].data.ptr;
        if (connection->state == CONNECTING) {
            connected(connection);
            continue;
        }
        if (connection->state != CLOSED && events[i].events & EPOLLOUT) flush(connection);
        if (connection->state != CLOSED && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(connection);
    }
    flush_all();
}

int64_t loop_longest_turn(void) {
    int64_t longest = longestTurn;
    longestTurn = 0;
    turnStarted = now();
    return longest;
}

// MARK: Opening

struct connection *connection_open(
    const struct target *target, uint32_t source, const struct connection_events *events, void *owner) {
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) fail(EXIT_LOST, "out of memory");
    connection->events = events;
    connection->owner = owner;
    connection->target = target;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) fail(EXIT_LOST, "socket: %s; raise the limit of open files (ulimit -n)", strerror(errno));
    int on = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if ((ntohl(target->address) >> 24) == 127) {
        struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7F000001u + source)};
        setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(connection->fd, (struct sockaddr *)&local, sizeof local) != 0) {
            fail(EXIT_LOST, "bind to loopback address number %u: %s", source, strerror(errno));
        }
    }
    struct sockaddr_in remote = {
        .sin_family = AF_INET, .sin_port = htons(target->port), .sin_addr.s_addr = target->address};
    if (connect(connection->fd, (struct sockaddr *)&remote, sizeof remote) != 0 && errno != EINPROGRESS) {
        fail(EXIT_UNREACHABLE, "cannot connect to port %u: %s", target->port, strerror(errno));
    }
    watch(connection, EPOLL_CTL_ADD, EPOLLOUT);
    return connection;
}

/// The TCP connection stands or has failed: sends the opening handshake (RFC 6455 §4.1) with a key of its own.
static void connected(struct connection *connection) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
        fail(EXIT_UNREACHABLE, "cannot connect to port %u: %s", connection->target->port, strerror(error));
    }
    uint32_t nonce[4] = {next_random(), next_random(), next_random(), next_random()};
    char head[1024];
    size_t headLength = handshake_write(&connection->handshake, connection->target, nonce, head, sizeof head);
    append(&connection->output, head, headLength);
    connection->state = AWAITING_101;
    watch(connection, EPOLL_CTL_MOD, EPOLLIN);
    queue_for_flush(connection);
}

// MARK: Receiving

static void control_frame(struct connection *connection, enum opcode opcode, const char *payload, size_t length) {
    switch (opcode) {
    case OPCODE_PING: connection_send(connection, OPCODE_PONG, payload, length); return;
    case OPCODE_PONG: return;
    case OPCODE_CLOSE: {
        int code = length >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        fail(EXIT_LOST, "the relay closed a connection: %d %.*s", code, length > 2 ? (int)length - 2 : 0, payload + 2);
    }
    default: fail(EXIT_LOST, "a frame with opcode %d came", opcode);
    }
}

static void data_frame(
    struct connection *connection, bool isFinal, enum opcode opcode, const char *payload, size_t length) {
    if (connection->isInsideMessage != (opcode == OPCODE_CONTINUATION)) {
        fail(EXIT_LOST, "a fragment came out of order (opcode %d)", opcode);
    }
    if (opcode == OPCODE_TEXT || opcode == OPCODE_BINARY) {
        connection->messageOpcode = opcode;
    } else if (opcode != OPCODE_CONTINUATION) {
        fail(EXIT_LOST, "a frame with opcode %d came", opcode);
    }
    if (isFinal && !connection->isInsideMessage) {
        connection->events->message(connection, opcode, payload, length);
        return;
    }
    connection->isInsideMessage = !isFinal;
    append(&connection->message, payload, length);
    if (connection->message.length > MESSAGE_BYTES) {
        fail(EXIT_LOST, "a message of more than %d bytes came", MESSAGE_BYTES);
    }
    if (!isFinal) return;
    struct bytes whole = connection->message;
    connection->message = (struct bytes){0};
    connection->events->message(connection, connection->messageOpcode, whole.start, whole.length);
    release(&whole);
}

/// Takes one frame off the front of `bytes` (RFC 6455 §5.2); returns its length, 0 where more must come.
static size_t take_frame(struct connection *connection, const char *bytes, size_t length) {
    if (length < 2) return 0;
    const unsigned char *head = (const unsigned char *)bytes;
    if (head[0] & 0x70) fail(EXIT_LOST, "a frame with a reserved bit came");
    if (head[1] & 0x80) fail(EXIT_LOST, "a masked frame came from the relay");
    size_t headLength = 2;
    uint64_t payloadLength = head[1] & 0x7F;
    if (payloadLength >= 126) {
        size_t lengthBytes = payloadLength == 126 ? 2 : 8;
        if (length < 2 + lengthBytes) return 0;
        payloadLength = 0;
        for (size_t i = 0; i < lengthBytes; i++) payloadLength = payloadLength << 8 | head[2 + i];
        headLength += lengthBytes;
        if (payloadLength > MESSAGE_BYTES) fail(EXIT_LOST, "a frame of more than %d bytes came", MESSAGE_BYTES);
    }
    if (length - headLength < payloadLength) return 0;
    enum opcode opcode = head[0] & 0x0F;
    bool isFinal = head[0] & 0x80;
    if (opcode & 8) {
        if (!isFinal || payloadLength > 125) fail(EXIT_LOST, "a control frame came that is fragmented or too long");
        control_frame(connection, opcode, bytes + headLength, payloadLength);
    } else {
        data_frame(connection, isFinal, opcode, bytes + headLength, payloadLength);
    }
    return headLength + payloadLength;
}

static void receive(struct connection *connection) {
    received.length = 0;
    append(&received, connection->input.start, connection->input.length);
    reserve(&received, RECEIVE_BYTES);
    ssize_t count = recv(connection->fd, received.start + received.length, RECEIVE_BYTES, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count < 0) fail(EXIT_LOST, "the relay cut a connection: %s", strerror(errno));
    if (count == 0) fail(EXIT_LOST, "the relay cut a connection without a close frame");
    received.length += (size_t)count;
    release(&connection->input);

    size_t taken = 0;
    if (connection->state == AWAITING_101) {
        taken = handshake_check(&connection->handshake, received.start, received.length);
        if (taken > 0) {
            connection->state = OPEN;
            release(&connection->output);
            connection->events->opened(connection);
        }
    }
    while (connection->state == OPEN) {
        size_t frame = take_frame(connection, received.start + taken, received.length - taken);
        if (frame == 0) break;
        taken += frame;
    }
    if (connection->state != CLOSED) append(&connection->input, received.start + taken, received.length - taken);
}

// MARK: Sending

char *connection_begin(struct connection *connection, enum opcode opcode, size_t length) {
    struct bytes *output = &connection->output;
    reserve(output, 14 + length);
    unsigned char *head = (unsigned char *)output->start + output->length;
    size_t headLength = 2;
    head[0] = (unsigned char)(0x80 | opcode);
    if (length < 126) {
        head[1] = (unsigned char)(0x80 | length);
    } else if (length < 65536) {
        head[1] = 0x80 | 126;
        head[2] = (unsigned char)(length >> 8);
        head[3] = (unsigned char)length;
        headLength = 4;
    } else {
        head[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (unsigned char)((uint64_t)length >> (56 - 8 * i));
        headLength = 10;
    }
    connection->frameMask = next_random();
    memcpy(head + headLength, &connection->frameMask, 4);
    output->length += headLength + 4;
    return output->start + output->length;
}

void connection_end(struct connection *connection, size_t length) {
    char *payload = connection->output.start + connection->output.length;
    uint64_t mask = (uint64_t)connection->frameMask << 32 | connection->frameMask, word;
    size_t offset = 0;
    for (; offset + 8 <= length; offset += 8) {
        memcpy(&word, payload + offset, 8);
        word ^= mask;
        memcpy(payload + offset, &word, 8);
    }
    for (; offset < length; offset++) payload[offset] ^= ((const char *)&mask)[offset & 7];
    connection->output.length += length;
    queue_for_flush(connection);
}

void connection_send(struct connection *connection, enum opcode opcode, const void *bytes, size_t length) {
    char *payload = connection_begin(connection, opcode, length);
    if (length > 0) memcpy(payload, bytes, length);
    connection_end(connection, length);
}

void connection_close(struct connection *connection) {
    if (connection->state == CLOSED) return;
    if (connection->state == OPEN && connection->output.length == 0) {
        connection_send(connection, OPCODE_CLOSE, "\x03\xE8", 2);
        send(connection->fd, connection->output.start, connection->output.length, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    connection->state = CLOSED;
    close(connection->fd);
    release(&connection->input);
    release(&connection->message);
    release(&connection->output);
}
