// The table of scenarios and the options they share.

#pragma once

#include "pairs.h"

enum { BODIES = 8, PROCESSES = 16 };

struct options {
    struct target target;
    pid_t process;  // The first of `processCount`.
    pid_t processes[PROCESSES];
    int processCount;
    const struct target *backend;  // Where to listen, behind a proxy; NULL: nowhere.
    uint32_t pairs, inFlight, burst, connections, concurrency;
    // Connections that carry channels, of servers (0: one per pair) and of clients (0: these are clean).
    uint32_t servers, multiplexed;
    uint32_t bulk, stalled;  // Channels beside the measured ones.
    const char *stallMode;
    bool isTowardClient;  // A stream goes from the back end to the client.
    const struct target *serverTarget;  // Where servers connect; NULL: where the clients do.
    size_t payloadBytes;
    double messagesPerSecond;
    int64_t warmup, duration, settle, replaceEvery;  // Nanoseconds.
    const char *credential;  // Admin credential; NULL where none was given.
    const char *bodies[BODIES];  // Texts of instruction bodies to put in turn; `bodyCount` of them.
    int bodyCount;
};

/// A scenario runs to its end and prints one JSON object on standard output. It fails by `fail`.
struct scenario {
    const char *name;
    const char *summary;
    void (*run)(const struct options *options);
};

void pair_run(const struct options *options);
void setup_run(const struct options *options);
void forward_run(const struct options *options);
void replace_run(const struct options *options);
void channel_run(const struct options *options);
void fairness_run(const struct options *options);
void stalled_run(const struct options *options);
void stream_run(const struct options *options);
void webhook_run(const struct options *options);
void push_run(const struct options *options);
void idle_run(const struct options *options);

/// The load that the options describe, without dialect and hooks.
struct load load_from(const struct options *options);
