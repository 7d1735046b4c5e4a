// WebSocket client connections on one epoll loop: the transport under every scenario.
//
//   socket -> (101 check) -> frames -> events->message
//   connection_send -> output of the connection -> one send per connection and turn
//
// The generator is a judge: whatever a relay does that RFC 6455 forbids, or that breaks a connection, ends the run.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "handshake.h"

enum opcode { OPCODE_CONTINUATION = 0, OPCODE_TEXT = 1, OPCODE_BINARY = 2, OPCODE_CLOSE = 8, OPCODE_PING, OPCODE_PONG };

struct connection;

/// What a scenario hears of a connection. `bytes` is lent for the duration of the call.
struct connection_events {
    void (*opened)(struct connection *connection);
    void (*message)(struct connection *connection, enum opcode opcode, const char *bytes, size_t length);
};

struct bytes {
    char *start;
    size_t length, capacity;
};

struct connection {
    const struct connection_events *events;
    void *owner;  // The scenario's.
    const struct target *target;
    int fd;
    enum { CONNECTING, AWAITING_101, OPEN, CLOSED } state;
    bool isQueuedForFlush, isWaitingForWritable;
    enum opcode messageOpcode;  // Of the fragmented message in `message`.
    bool isInsideMessage;
    struct bytes input;  // An incomplete frame; nothing is allocated while there is none.
    struct bytes message;  // Fragments so far.
    struct bytes output;  // Framed and masked, not yet sent.
    size_t outputSent;
    uint32_t frameMask;  // Of the frame between connection_begin and connection_end.
    struct handshake handshake;
    struct connection *nextToFlush;
};

/// Monotonic time in nanoseconds.
int64_t now(void);

/// A fast generator of numbers for masking keys; not for secrets.
uint32_t next_random(void);

/// Creates the epoll instance and raises the limit of open files as far as it goes.
void loop_start(void);

/// Waits up to `timeout` nanoseconds (0: does not wait; negative: for ever), delivers what came, then sends what was
/// written, once per connection. The longest time spent between two calls is kept for `loop_longest_turn`.
void loop_turn(int64_t timeout);

/// The longest time in nanoseconds between two looks at the sockets since the last call: what the generator itself, or
/// whoever took its core away, may have added to a latency. Waiting for input does not count.
int64_t loop_longest_turn(void);

/// Opens a connection from loopback source address number `source` (127.0.0.1 + source), so that limits per address and
/// the range of ports do not stop a run of many connections; a target that is not on loopback gets the default source.
struct connection *connection_open(
    const struct target *target, uint32_t source, const struct connection_events *events, void *owner);

/// Sends one unfragmented message.
void connection_send(struct connection *connection, enum opcode opcode, const void *bytes, size_t length);

/// Starts a message of exactly `length` bytes and returns where to write its payload; `connection_end` masks it. No
/// other call on the connection may come between.
char *connection_begin(struct connection *connection, enum opcode opcode, size_t length);
void connection_end(struct connection *connection, size_t length);

/// Sends a close frame with 1000 as far as the socket takes it, and closes the socket. The memory stays until the end.
void connection_close(struct connection *connection);
