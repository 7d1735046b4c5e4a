// Scenario `stalled`: the measured channels go on while others, whose readers have stopped, are full. What these hold
// in the relay is what its resident memory grows by from when they are open to when nothing moves in them.
//
//   clean   clean clients read nothing; the server sends to each
//   client  multiplexed clients read nothing, not even their sockets; the server sends to each channel
//   grants  the server takes what comes and grants nothing anew; clean clients send to it
//   server  servers of their own do not read their sockets; clean clients send to them

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "channel.h"
#include "fail.h"

enum {
    MESSAGE_BYTES_EACH = 4 << 10,
    // So much is sent beyond a channel's credit, if the relay takes it: not all that it would, for of what it leaves
    // to the kernel there would soon be too much.
    BEYOND_CREDIT = 64 << 10,
    MOST_WAITING = 1 << 20,  // In the server's own output.
    SMALL_RECEIVE_BYTES = 2048,
    PER_MULTIPLEXED = 1000,
    OPENING_AT_ONCE = 64,
};

static const int64_t STALL = 20ll * 1000000000, QUIET = 1000000000;

struct stalled {
    struct connection *client;  // NULL: multiplexed.
    struct target target;
    struct channel *channel;  // The server's end.
    uint64_t sent;
};

static struct {
    const struct options *options;
    enum { CLEAN, CLIENT, GRANTS, SERVER } mode;
    struct stalled *all;
    struct multiplex *others;  // Multiplexed clients, or servers of their own.
    uint32_t open;
    int64_t credit;
    char message[MESSAGE_BYTES_EACH];
    struct usage before, opened, full;
    int64_t kernelBefore, kernelFull;
} run;

// MARK: Channels

static void asked(struct channel *channel, uint32_t neighbour) {
    run.all[neighbour].channel = channel;
    channel->isStopped = true;
    // The same both ways: the relay holds what an end grants to its limit.
    run.credit = channel->credit;
}

static void asked_directly(struct channel *channel) {
    asked(channel, channel->port - channel_port(0));
}

static void piece(struct channel *channel, const char *bytes, size_t length, bool isLast) {
    (void)channel;
    (void)bytes;
    (void)length;
    (void)isLast;
}

static void message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    (void)connection;
    (void)opcode;
    (void)bytes;
    (void)length;
}

static void opened(struct connection *connection) {
    (void)connection;
    run.open += 1;
}

static void ready(struct channel *channel) {
    (void)channel;
    run.open += 1;
}

static void multiplex_opened(struct multiplex *multiplex) {
    (void)multiplex;
}

static const struct connection_events clientEvents = {.opened = opened, .message = message};
static const struct multiplex_events multiplexEvents = {multiplex_opened, asked_directly, ready, piece};

static struct multiplex *other(uint32_t index) {
    return &run.others[index / PER_MULTIPLEXED];
}

static const char *server_of(uint32_t index) {
    static char name[24];
    if (run.mode != SERVER) return channel_server(channel_port(index));
    snprintf(name, sizeof name, "stalled%u", index / PER_MULTIPLEXED);
    return name;
}

static void open_others(void) {
    uint32_t count = (run.options->stalled + PER_MULTIPLEXED - 1) / PER_MULTIPLEXED;
    run.others = calloc(count, sizeof *run.others);
    if (run.others == NULL) fail(EXIT_LOST, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        multiplex_open(&run.others[i], &run.options->target, run.options->credential,
                       run.mode == SERVER ? server_of(i * PER_MULTIPLEXED) : NULL, 0, &multiplexEvents);
        while (!run.others[i].isOpen) loop_turn(1000000);
    }
}

static void open_one(uint32_t index) {
    struct stalled *stalled = &run.all[index];
    if (run.mode == CLIENT) {
        multiplex_connect(other(index), server_of(index), channel_port(index), NULL);
        return;
    }
    // A small window leaves it to the relay to hold what is not read.
    if (run.mode == CLEAN) stalled->target.receiveBytes = SMALL_RECEIVE_BYTES;
    stalled->client =
        channel_connect_clean(&stalled->target, server_of(index), channel_port(index), &clientEvents, stalled);
}

// MARK: Filling

/// Sends one message to a reader that has stopped, where that is possible.
static bool fill_one(struct stalled *stalled) {
    if ((int64_t)stalled->sent >= run.credit + BEYOND_CREDIT) return false;
    if (run.mode == CLEAN || run.mode == CLIENT) {
        struct channel *channel = stalled->channel;
        if (channel->multiplex->connection->output.length > MOST_WAITING) return true;
        int64_t length = channel->credit < MESSAGE_BYTES_EACH ? channel->credit : MESSAGE_BYTES_EACH;
        if (length == 0) return false;
        channel_send(channel, run.message, (size_t)length);
        stalled->sent += (uint64_t)length;
        return true;
    }
    if (stalled->client->output.length > 0) return false;
    connection_send(stalled->client, OPCODE_BINARY, run.message, sizeof run.message);
    stalled->sent += sizeof run.message;
    return true;
}

/// Sends until nothing moves any more: nothing can be sent, and the relay does nothing, for a while.
static void fill(void) {
    int64_t moved = now(), cpu = usage_of(run.options->process).cpu;
    while (true) {
        bool isFull = true;
        for (uint32_t i = 0; i < run.options->stalled; i++) {
            if (fill_one(&run.all[i])) isFull = false;
        }
        loop_turn(1000000);
        if (isFull && now() - moved < QUIET) continue;
        int64_t latest = usage_of(run.options->process).cpu;
        if (isFull && latest - cpu < QUIET / 20) return;
        moved = now();
        cpu = latest;
    }
}

static void stop_reading(void) {
    for (uint32_t i = 0; i < run.options->stalled; i++) {
        if (run.mode == CLEAN) connection_pause(run.all[i].client);
        else if (run.mode != GRANTS && i % PER_MULTIPLEXED == 0) connection_pause(other(i)->connection);
    }
}

static void settle(int64_t duration) {
    for (int64_t end = now() + duration; now() < end;) loop_turn(10000000);
}

/// What the kernel keeps for all TCP sockets of this network namespace, in KiB (proc_net(5)).
static int64_t kernel_kib(void) {
    char line[256];
    long long pages = 0;
    FILE *file = fopen("/proc/net/sockstat", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "TCP: inuse %*d orphan %*d tw %*d alloc %*d mem %lld", &pages);
    }
    if (file != NULL) fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void open_and_fill(void) {
    const struct options *options = run.options;
    run.all = calloc(options->stalled, sizeof *run.all);
    if (run.all == NULL) fail(EXIT_LOST, "out of memory");
    settle(options->settle);
    run.before = usage_of(options->process);
    if (run.mode == CLIENT || run.mode == SERVER) open_others();
    int64_t moved = now();
    for (uint32_t started = 0, lastOpen = 0; run.open < options->stalled;) {
        for (; started < options->stalled && started - run.open < OPENING_AT_ONCE; started++) open_one(started);
        loop_turn(10000000);
        if (run.open != lastOpen) moved = now();
        lastOpen = run.open;
        if (now() - moved > STALL) fail(EXIT_LOST, "only %u of %u channels were opened", run.open, options->stalled);
    }
    settle(options->settle);
    run.opened = usage_of(options->process);
    run.kernelBefore = kernel_kib();
    stop_reading();
    fill();
    settle(options->settle);
    run.full = usage_of(options->process);
    run.kernelFull = kernel_kib();
}

static const struct neighbours stalledNeighbours = {open_and_fill, asked, piece};

// MARK: The run

static void print_stalled(void) {
    double count = run.options->stalled > 0 ? run.options->stalled : 1, sent = 0;
    for (uint32_t i = 0; i < run.options->stalled; i++) sent += (double)run.all[i].sent;
    printf(", \"stalled\": {\"channels\": %u, \"mode\": \"%s\", \"creditBytes\": %lld, \"bytesEach\": %.0f, "
           "\"bytesSentEach\": %.0f, \"residentKiBBefore\": %lld, \"residentKiBOpen\": %lld, "
           "\"residentKiBFull\": %lld, \"kernelKiB\": %lld}",
           run.options->stalled, run.options->stallMode, (long long)run.credit,
           (double)(run.full.residentKiB - run.opened.residentKiB) * 1024 / count, sent / count,
           (long long)run.before.residentKiB, (long long)run.opened.residentKiB, (long long)run.full.residentKiB,
           (long long)(run.kernelFull - run.kernelBefore));
}

void stalled_run(const struct options *options) {
    static const char *const modes[] = {"clean", "client", "grants", "server"};  // In the order of `mode`.
    if (options->process == 0) fail(EXIT_USAGE, "stalled needs --pid, the relay's process");
    while (run.mode <= SERVER && strcmp(options->stallMode, modes[run.mode]) != 0) run.mode++;
    if (run.mode > SERVER) fail(EXIT_USAGE, "--stall is clean, client, grants or server");
    static struct measurement measurement;
    struct load load = load_from(options);
    run.options = options;
    channel_run_load(&load, options, &stalledNeighbours, 0, &measurement);
    printf("{\"scenario\": \"stalled\", ");
    measurement_print_json(&load, &measurement);
    print_stalled();
    printf("}\n");
}
