// Pairs of connections with messages in flight from one end to the other: window, pace, checks and measurement.
//
// What the two ends say to each other through a particular relay is a dialect's business. The engine asks the dialect
// to set a pair up and to send message number n of it; the dialect tells the engine what came out at the other end.
//
//   pairs_run -> dialect->open(pair) … pairs_ready(pair)
//             -> dialect->send(pair, payload) … pairs_delivered(pair, payload), pairs_acknowledged(pair)
//
// A dialect whose far end sends every message back tells of two arrivals: pairs_arrived(pair, payload) at the far end,
// pairs_delivered(pair, payload) where it came from. Each is one relayed message; latency is the way there and back.
//
// Closed loop: every pair keeps `inFlight` messages under way; the next leaves when the oldest has been delivered
// *and*, where the dialect acknowledges, its sender has been told so. Fixed rate: messages fall due at even distances,
// round robin over the pairs, `burst` of them for a pair at a time; a message that must wait for the window is late by
// that wait, for latency counts from the moment it was due (no coordinated omission).

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "connection.h"
#include "histogram.h"
#include "process.h"

enum { PAYLOAD_HEAD_BYTES = 25 };  // "PPPPPPPP-SSSSSSSSSSSSSSSS": pair and sequence number in hex; filler follows.

struct pair {
    uint32_t index;
    struct connection *server, *client;
    int step;  // The dialect's, while the pair is set up.
    char serverID[64], credential[128], channel[24];  // The dialect's.
    uint64_t due, sent, arrived, delivered, acknowledged;
    int64_t *startedAt;  // Ring of `inFlight`: when message n was sent (closed loop) or due (fixed rate).
};

struct dialect {
    /// Starts to set the pair up; ends in `pairs_ready`.
    void (*open)(struct pair *pair);
    /// Sends `payload` from the client end.
    void (*send)(struct pair *pair, const char *payload, size_t length);
    /// Whether the sender hears of each delivery (`pairs_acknowledged`).
    bool acknowledges;
    /// How often the relay relays a message until it is delivered.
    uint32_t hops;
};

struct load {
    const struct target *target;
    const struct target *backend;  // Where the far ends listen, behind a proxy; NULL: they are clients, too.
    const struct dialect *dialect;
    // The relay's, or of all relays on the way; none where nothing is to be read of them.
    const pid_t *processes;
    int processCount;
    uint32_t pairs, inFlight, burst;
    size_t payloadBytes;
    double messagesPerSecond;  // Relayed; 0: closed loop.
    int64_t warmup, duration;  // Nanoseconds.
    /// Called once when all pairs are set up, before the first message; may be NULL.
    void (*prepared)(void);
    /// Called once per turn while the load runs, `isMeasured` in the measured window; may be NULL.
    void (*everyTurn)(int64_t time, bool isMeasured);
    /// Called once when sending has ended, before the pairs drain; may be NULL.
    void (*ended)(void);
    /// Called for every message delivered in the measured window; may be NULL.
    void (*observed)(int64_t startedAt, int64_t deliveredAt);
    /// Called for every message that reaches the far end of two hops in the measured window; may be NULL.
    void (*arrived)(int64_t startedAt, int64_t arrivedAt);
};

struct measurement {
    uint64_t messages;  // Relayed.
    double seconds;
    struct histogram latency;
    struct usage before, after;
    struct usage ownBefore, ownAfter;
    int64_t longestTurn;  // Of the generator, nanoseconds.
    int64_t setUp;  // Nanoseconds until all pairs were ready.
};

/// Runs the load to its end, drained. Ends the process where a message is lost, reordered, duplicated or altered.
void pairs_run(const struct load *load, struct measurement *measurement);

// What a dialect reports.
void pairs_ready(struct pair *pair);
void pairs_arrived(struct pair *pair, const char *payload, size_t length);
void pairs_delivered(struct pair *pair, const char *payload, size_t length);
void pairs_acknowledged(struct pair *pair);

/// The load that runs, for dialects.
const struct load *pairs_load(void);

/// Pair number `index`, or NULL.
struct pair *pairs_find(uint64_t index);

/// Prints the fields of a measurement as members of a JSON object, without the braces.
void measurement_print_json(const struct load *load, const struct measurement *measurement);
