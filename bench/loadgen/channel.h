// The dialect of channels: messages from a client of a server through its channel, and back. With it, what the
// scenarios `channel`, `fairness` and `stalled` share.
//
// The measured channels have the ports from 0 on, one each, so that an `open` tells whose it is. Neighbours, which are
// other channels of the same servers, have the ports behind.

#pragma once

#include "multiplex.h"
#include "pairs.h"
#include "scenario.h"

/// Channels beside those that are measured.
struct neighbours {
    /// Opens them, and does what is to be done before the first message.
    void (*open)(void);
    /// A server was asked for one of them.
    void (*asked)(struct channel *channel, uint32_t neighbour);
    /// A piece has come to the server's end, whose owner `asked` has set.
    void (*piece)(struct channel *channel, const char *bytes, size_t length, bool isLast);
};

/// Runs a load over channels, beside `neighbours` (NULL: none); the load's hooks are the caller's.
/// `serverReceiveBytes` is SO_RCVBUF of the servers' connections; 0: the system's.
void channel_run_load(struct load *load, const struct options *options, const struct neighbours *neighbours,
                      int serverReceiveBytes, struct measurement *measurement);

/// A clean client of `server` at `port`. `target` must stay; of it only `receiveBytes` is read.
struct connection *channel_connect_clean(struct target *target, const char *server, uint32_t port,
                                         const struct connection_events *events, void *owner);

/// The port of neighbour number `neighbour`, and the server that carries the channel at a port.
uint32_t channel_port(uint32_t neighbour);
const char *channel_server(uint32_t port);
