// Scenario `fairness`: small messages at a fixed rate through the measured channels, while other clients of the same
// servers send through theirs whatever these take. All of it has to leave through the servers' sockets.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "fail.h"

enum {
    BULK_BYTES = 16 << 10,  // Of a message of bulk: what a program that copies a file sends at a time.
    // Of a client's bulk, sent and not yet received by the server: more than a channel's credit, so that it always
    // wants more than it may; but no megabytes in the kernel for each, for TCP's memory for all of them would run out.
    UNDER_WAY_BYTES = 384 << 10,
    // Of a server's socket: what waits there, because this process has not read it yet, no relay can reorder, and the
    // system's would take megabytes.
    SERVER_RECEIVE_BYTES = 128 << 10,
    // Messages in a turn of the generator, so that it comes to look at the others' in between.
    AT_ONCE = 16,
};

static const int64_t STALL = 20ll * 1000000000;

struct bulk {
    struct connection *client;
    struct target target;
    bool isOpen;
    size_t offset;  // Within the message that comes.
    uint64_t sent, received, receivedBefore;  // In bytes; received before the measured window.
};

static struct {
    const struct options *options;
    struct bulk *bulks;
    uint32_t open, next;
    char message[BULK_BYTES];
    int64_t startedAt, endedAt;  // The measured window.
    struct histogram arrival;
} run;

static void asked(struct channel *channel, uint32_t neighbour) {
    channel->owner = &run.bulks[neighbour];
}

static void piece(struct channel *channel, const char *bytes, size_t length, bool isLast) {
    struct bulk *bulk = channel->owner;
    if (bulk->offset + length > BULK_BYTES || memcmp(bytes, run.message + bulk->offset, length) != 0
        || isLast != (bulk->offset + length == BULK_BYTES)) {
        fail(EXIT_LOST, "a message of bulk was altered, or has another length");
    }
    bulk->offset = isLast ? 0 : bulk->offset + length;
    bulk->received += length;
}

static void bulk_opened(struct connection *connection) {
    struct bulk *bulk = connection->owner;
    bulk->isOpen = true;
    run.open += 1;
}

static void bulk_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    (void)connection;
    (void)opcode;
    fail(EXIT_LOST, "a client that sends bulk was sent \"%.*s\"", length < 200 ? (int)length : 200, bytes);
}

static const struct connection_events bulkEvents = {.opened = bulk_opened, .message = bulk_message};

static void open_bulk(void) {
    for (int i = 0; i < BULK_BYTES; i++) run.message[i] = (char)(i % 251);
    run.bulks = calloc(run.options->bulk, sizeof *run.bulks);
    if (run.bulks == NULL) fail(EXIT_LOST, "out of memory");
    int64_t started = now();
    for (uint32_t i = 0; i < run.options->bulk; i++) {
        uint32_t port = channel_port(i);
        run.bulks[i].client =
            channel_connect_clean(&run.bulks[i].target, channel_server(port), port, &bulkEvents, &run.bulks[i]);
        while (run.open <= i) {
            loop_turn(1000000);
            if (now() - started > STALL) fail(EXIT_LOST, "only %u clients of bulk were let in", run.open);
        }
    }
}

static const struct neighbours bulkNeighbours = {open_bulk, asked, piece};

/// Every client sends on when the server has got enough of what it has sent, in turn.
static void send_bulk(int64_t time, bool isMeasured) {
    if (isMeasured) {
        run.endedAt = time;
        if (run.startedAt == 0) {
            run.startedAt = time;
            for (uint32_t i = 0; i < run.options->bulk; i++) run.bulks[i].receivedBefore = run.bulks[i].received;
        }
    }
    for (uint32_t looked = 0, sent = 0; looked < run.options->bulk && sent < AT_ONCE; looked++) {
        struct bulk *bulk = &run.bulks[run.next++ % run.options->bulk];
        if (bulk->client->output.length > 0 || bulk->sent - bulk->received >= UNDER_WAY_BYTES) continue;
        connection_send(bulk->client, OPCODE_BINARY, run.message, BULK_BYTES);
        bulk->sent += BULK_BYTES;
        sent += 1;
    }
}

static void observe_arrival(int64_t startedAt, int64_t arrivedAt) {
    histogram_record(&run.arrival, arrivedAt - startedAt);
}

static void print_bulk(void) {
    uint64_t least = UINT64_MAX, all = 0;
    for (uint32_t i = 0; i < run.options->bulk; i++) {
        uint64_t received = run.bulks[i].received - run.bulks[i].receivedBefore;
        if (received < least) least = received;
        all += received;
    }
    double seconds = (double)(run.endedAt - run.startedAt) / 1e9, count = run.options->bulk;
    printf(", \"bulk\": {\"channels\": %u, \"bytesPerSecond\": %.0f, \"leastShare\": ", run.options->bulk,
           (double)all / seconds);
    if (all > 0) printf("%.3f}", (double)least * count / (double)all);
    else printf("null}");
}

void fairness_run(const struct options *options) {
    if (options->messagesPerSecond == 0) fail(EXIT_USAGE, "fairness needs --rate");
    static struct measurement measurement;
    struct load load = load_from(options);
    run.options = options;
    load.everyTurn = send_bulk;
    load.arrived = observe_arrival;
    channel_run_load(&load, options, &bulkNeighbours, SERVER_RECEIVE_BYTES, &measurement);
    if (measurement.latency.count == 0) fail(EXIT_LOST, "no message came back in the measured window");
    printf("{\"scenario\": \"fairness\", ");
    measurement_print_json(&load, &measurement);
    printf(", \"arrivalMicroseconds\": ");
    histogram_print_json(&run.arrival);
    print_bulk();
    printf("}\n");
}
