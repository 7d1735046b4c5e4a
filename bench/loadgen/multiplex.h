// Connections that speak relay.v1 (docs/relay.v1.md): many channels over one WebSocket, as a server or as a client.
//
//   multiplex_serve  <- open  -> asked(port) -> accept
//   multiplex_client -> open  <- accept      -> ready(channel)
//   both: channel_send -> data frames, as far as there is credit <- credit
//         data frames -> piece(channel); credit is granted anew at half
//
// The relay is held to the protocol: data beyond what was granted, of the wrong type or for no channel ends the run.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "connection.h"

enum { CHANNEL_CREDIT = 256 << 10 };  // What an `open` grants that names no credit, and what an end grants here.

struct multiplex;

struct channel {
    struct multiplex *multiplex;
    uint32_t number;
    uint32_t port;  // Of a server's end: what the client wants.
    void *owner;
    int64_t credit;  // May be sent.
    int64_t granted;  // May come.
    int64_t taken;  // Has come and was not granted anew.
    bool isStopped;  // Nothing is granted anew any more: its reader has stopped.
    struct bytes waiting;  // Messages without credit, each behind its length (u32).
};

/// What a scenario hears of a multiplexed connection. `bytes` is lent for the duration of the call.
struct multiplex_events {
    /// The connection is there; a server is registered by then.
    void (*opened)(struct multiplex *multiplex);
    /// Somebody wants a channel to `channel->port` of the server, and grants `channel->credit`. It has been accepted.
    void (*asked)(struct channel *channel);
    /// The channel that was opened from here is accepted.
    void (*ready)(struct channel *channel);
    /// A piece of a message has come; `isLast` ends it.
    void (*piece)(struct channel *channel, const char *bytes, size_t length, bool isLast);
};

struct multiplex {
    const struct multiplex_events *events;
    struct connection *connection;
    struct target target;
    bool isOpen, isServer;
    struct channel **channels;  // By half of their number.
    uint32_t capacity, lastNumber;
};

/// Connects and, with `server`, registers itself as that: `relay` says where and with which credential (NULL: none).
void multiplex_open(struct multiplex *multiplex, const struct target *relay, const char *credential,
                    const char *server, uint32_t source, const struct multiplex_events *events);

/// Opens a channel from the client's end; ends in `ready`.
struct channel *multiplex_connect(struct multiplex *multiplex, const char *server, uint32_t port, void *owner);

/// Sends one binary message: what has no credit waits, and leaves in pieces as credit comes.
void channel_send(struct channel *channel, const char *bytes, size_t length);

/// Another path at the same relay, with the credential (NULL: none) in its query.
struct target target_at(const struct target *relay, const char *path, const char *credential);
