// WebSocket connections on the loop, both roles: the transport under every scenario.
//
//   socket -> (TLS) -> handshake -> frames -> events->message
//   connection_send -> output of the connection -> one send per connection and turn
//
// The generator is a judge: whatever a relay does that RFC 6455 forbids, or that breaks a connection, ends the run.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "frame.h"
#include "handshake.h"
#include "loop.h"
#include "tls.h"

/// What a scenario hears of a connection. `bytes` is lent for the duration of the call.
struct connection_events {
    /// The handshake is over; a back end has yet to hear who it is.
    void (*opened)(struct connection *connection);
    void (*message)(struct connection *connection, enum opcode opcode, const char *bytes, size_t length);
    /// Both close frames have passed and the socket is closed; the connection is about to be freed. NULL where nobody
    /// may close: then a close from the relay ends the run.
    void (*closed)(struct connection *connection);
    /// Where it is set the connection is no WebSocket but plain bytes: takes what is complete off the front and returns
    /// how much that was, 0 where more must come.
    size_t (*bytes)(struct connection *connection, const char *bytes, size_t length);
};

struct connection {
    const struct connection_events *events;
    void *owner;  // The scenario's.
    const struct target *target;  // Where a client goes, and where a back end listens.
    int fd;
    enum { LISTENING, CONNECTING, SECURING, SHAKING_HANDS, OPEN, CLOSED } state;
    bool isServer;  // A back end's end, which was accepted.
    bool closeIsSent, closeIsReceived;
    bool isQueuedForFlush, isWaitingForWritable, isPaused;
    bool isInsideMessage;
    enum opcode messageOpcode;  // Of the fragmented message in `message`.
    struct tls *tls;  // NULL: plain.
    struct bytes input;  // An incomplete frame; nothing is allocated while there is none.
    struct bytes message;  // Fragments so far.
    struct bytes output;  // Framed and masked, not yet sent.
    size_t outputSent;
    struct frame written;  // Between connection_begin and connection_end.
    struct handshake handshake;
    struct connection *nextToFlush, *nextToFree;
};

/// Opens a connection from loopback source address number `source` (127.0.0.1 + source), so that limits per address and
/// the range of ports do not stop a run of many connections; a target that is not on loopback gets the default source.
/// On TLS, `session` is resumed and kept as `tls_client` says; it may be NULL.
struct connection *connection_open(const struct target *target, uint32_t source, struct tls_session **session,
                                   const struct connection_events *events, void *owner);

/// Plays the back end behind a proxy: listens at `target` until the end of the run. What it accepts has no owner.
void connection_listen(const struct target *target, const struct connection_events *events);

/// Sends one unfragmented message.
void connection_send(struct connection *connection, enum opcode opcode, const void *bytes, size_t length);

/// Sends bytes as they are, on a connection that is no WebSocket.
void connection_write(struct connection *connection, const void *bytes, size_t length);

/// Starts a message of exactly `length` bytes and returns where to write its payload; `connection_end` masks it. No
/// other call on the connection may come between.
char *connection_begin(struct connection *connection, enum opcode opcode, size_t length);
void connection_end(struct connection *connection);

/// Reads nothing more: the reader has stopped.
void connection_pause(struct connection *connection);

/// Starts the closing handshake with 1000; ends in `closed` (RFC 6455 §7.1.1: the server closes the socket).
void connection_close(struct connection *connection);

/// Sends a close frame as far as the socket takes it, and closes the socket at once. The memory stays.
void connection_abandon(struct connection *connection);

// What the loop calls.

void connection_ready(struct connection *connection, uint32_t events);
void connection_flush(struct connection *connection);
