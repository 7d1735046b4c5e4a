// Scenario `channel`. Setting a pair up:
//
//   server -> /s/bench0, relay.v1                                       <- 101, once for all that it carries
//   client -> /c/bench0/17                 server <- open, port 17      server -> accept     client <- 101
//   or, multiplexed:
//   client -> open {"server":"bench0","port":17}   (the same)                                client <- accept
//
// From then on messages go there and back, as they are at the clean end and in data frames at the other.

#include "channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"

enum { CLIENTS_PER_SOURCE = 250 };

/// What this dialect keeps of a pair.
struct link {
    struct pair *pair;
    struct channel *near, *far;  // `near` of a multiplexed client.
    struct bytes nearMessage, farMessage;  // The pieces of a message so far.
    struct target target;  // Of a clean client.
};

static struct {
    const struct options *options;
    const struct neighbours *neighbours;
    struct link *links;
    struct multiplex *servers, *clients;
    uint32_t serverCount;
} run;

// MARK: Places

const char *channel_server(uint32_t port) {
    static char name[24];
    snprintf(name, sizeof name, "bench%u", port % run.serverCount);
    return name;
}

uint32_t channel_port(uint32_t neighbour) {
    return pairs_load()->pairs + neighbour;
}

static bool is_neighbour(const struct channel *channel) {
    return channel->port >= pairs_load()->pairs;
}

struct connection *channel_connect_clean(struct target *target, const char *server, uint32_t port,
                                         const struct connection_events *events, void *owner) {
    char path[64];
    snprintf(path, sizeof path, "/c/%s/%u", server, port);
    struct target place = target_at(&run.options->target, path, run.options->credential);
    place.receiveBytes = target->receiveBytes;
    *target = place;
    return connection_open(target, port / CLIENTS_PER_SOURCE, NULL, events, owner);
}

// MARK: Messages

/// Takes a piece; true where the message is whole, which then is at `*bytes`. `bytes_release` the pieces after that.
static bool is_whole(struct bytes *pieces, const char **bytes, size_t *length, bool isLast) {
    if (isLast && pieces->length == 0) return true;
    bytes_append(pieces, *bytes, *length);
    *bytes = pieces->start;
    *length = pieces->length;
    return isLast;
}

static void far_piece(struct channel *channel, const char *bytes, size_t length, bool isLast) {
    if (is_neighbour(channel)) return run.neighbours->piece(channel, bytes, length, isLast);
    struct link *link = channel->owner;
    if (!is_whole(&link->farMessage, &bytes, &length, isLast)) return;
    pairs_arrived(link->pair, bytes, length);
    channel_send(channel, bytes, length);
    bytes_release(&link->farMessage);
}

static void near_piece(struct channel *channel, const char *bytes, size_t length, bool isLast) {
    struct link *link = channel->owner;
    if (!is_whole(&link->nearMessage, &bytes, &length, isLast)) return;
    pairs_delivered(link->pair, bytes, length);
    bytes_release(&link->nearMessage);
}

static void clean_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    struct link *link = connection->owner;
    if (opcode != OPCODE_BINARY) fail(EXIT_LOST, "pair %u: a binary message became a text", link->pair->index);
    pairs_delivered(link->pair, bytes, length);
}

static void send_payload(struct pair *pair, const char *payload, size_t length) {
    struct link *link = &run.links[pair->index];
    if (link->near != NULL) channel_send(link->near, payload, length);
    else connection_send(pair->client, OPCODE_BINARY, payload, length);
}

// MARK: Setting up

static void asked(struct channel *channel) {
    if (is_neighbour(channel)) return run.neighbours->asked(channel, channel->port - pairs_load()->pairs);
    struct link *link = &run.links[channel->port];
    if (link->pair == NULL || link->far != NULL) fail(EXIT_LOST, "a server was asked for port %u twice", channel->port);
    link->far = channel;
    channel->owner = link;
}

static void clean_opened(struct connection *connection) {
    struct link *link = connection->owner;
    if (link->far == NULL) fail(EXIT_LOST, "pair %u: a client was let in before its server", link->pair->index);
    pairs_ready(link->pair);
}

static void channel_ready(struct channel *channel) {
    pairs_ready(((struct link *)channel->owner)->pair);
}

static void nothing(struct multiplex *multiplex) {
    (void)multiplex;
}

static const struct connection_events cleanEvents = {.opened = clean_opened, .message = clean_message};
static const struct multiplex_events farEvents = {nothing, asked, NULL, far_piece};
static const struct multiplex_events nearEvents = {nothing, NULL, channel_ready, near_piece};

static void open_pair(struct pair *pair) {
    struct link *link = &run.links[pair->index];
    link->pair = pair;
    if (run.options->multiplexed > 0) {
        struct multiplex *client = &run.clients[pair->index % run.options->multiplexed];
        link->near = multiplex_connect(client, channel_server(pair->index), pair->index, link);
    } else {
        pair->client = channel_connect_clean(
            &link->target, channel_server(pair->index), pair->index, &cleanEvents, link);
    }
}

static const struct dialect channelDialect = {.open = open_pair, .send = send_payload, .hops = 2};

static struct multiplex *open_all(uint32_t count, bool areServers, int receiveBytes) {
    const struct options *options = run.options;
    struct target relay = areServers && options->serverTarget ? *options->serverTarget : options->target;
    relay.receiveBytes = receiveBytes;
    struct multiplex *all = calloc(count, sizeof *all);
    if (all == NULL) fail(EXIT_LOST, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        multiplex_open(&all[i], &relay, options->credential, areServers ? channel_server(i) : NULL, 0,
                       areServers ? &farEvents : &nearEvents);
    }
    for (uint32_t i = 0; i < count; i++) {
        while (!all[i].isOpen) loop_turn(1000000);
    }
    return all;
}

void channel_run_load(struct load *load, const struct options *options, const struct neighbours *neighbours,
                      int serverReceiveBytes, struct measurement *measurement) {
    run.options = options;
    run.neighbours = neighbours;
    run.links = calloc(load->pairs, sizeof *run.links);
    if (run.links == NULL) fail(EXIT_LOST, "out of memory");
    run.serverCount = options->servers > 0 ? options->servers : load->pairs;
    run.servers = open_all(run.serverCount, true, serverReceiveBytes);
    // Another relay hears of the servers by its link.
    for (int64_t until = now() + options->settle; options->serverTarget != NULL && now() < until;) loop_turn(1000000);
    run.clients = open_all(options->multiplexed, false, 0);
    load->dialect = &channelDialect;
    if (neighbours != NULL) load->prepared = neighbours->open;
    pairs_run(load, measurement);
}

void channel_run(const struct options *options) {
    static struct measurement measurement;
    struct load load = load_from(options);
    channel_run_load(&load, options, NULL, 0, &measurement);
    printf("{\"scenario\": \"channel\", ");
    measurement_print_json(&load, &measurement);
    printf("}\n");
}
