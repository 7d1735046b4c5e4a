// Two ends of a pair find each other by its number:
//
//   near end -> {"instruction":"pair","parameters":["17"]}  <- "paired"
//   far end  -> {"instruction":"pair","parameters":["17"]}  <- "paired"
//
// Both are clients, and the relay answers when it has both. Behind a proxy the far end is a back end: it is handed the
// near end's message, and answers that by itself. From then on:
//
//   near end -> message, binary -> far end -> the same message -> near end

#include "pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "scenario.h"

enum { PAIRS_PER_SOURCE = 250 };

static const char head[] = "{\"instruction\":\"pair\",\"parameters\":[\"", tail[] = "\"]}", paired[] = "paired";

static void introduce(struct connection *connection) {
    const struct pair *pair = connection->owner;
    char text[80];
    int length = snprintf(text, sizeof text, "%s%u%s", head, pair->index, tail);
    connection_send(connection, OPCODE_TEXT, text, (size_t)length);
}

static bool is_setting_up(const struct pair *pair) {
    return pair->step < 2;
}

/// One end of the pair was told that it is one.
static void half_paired(struct pair *pair, enum opcode opcode, const char *bytes, size_t length) {
    if (opcode != OPCODE_TEXT || length != sizeof paired - 1 || memcmp(bytes, paired, length) != 0) {
        fail(EXIT_LOST, "pair %u: pairing was answered \"%.*s\"", pair->index, length < 200 ? (int)length : 200, bytes);
    }
    pair->step += 1;
    if (!is_setting_up(pair)) pairs_ready(pair);
}

static void expect_binary(const struct pair *pair, enum opcode opcode) {
    if (opcode != OPCODE_BINARY) fail(EXIT_LOST, "pair %u: a binary message became a text", pair->index);
}

static void near_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    struct pair *pair = connection->owner;
    if (is_setting_up(pair)) return half_paired(pair, opcode, bytes, length);
    expect_binary(pair, opcode);
    pairs_delivered(pair, bytes, length);
}

static void far_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    struct pair *pair = connection->owner;
    if (is_setting_up(pair)) return half_paired(pair, opcode, bytes, length);
    expect_binary(pair, opcode);
    pairs_arrived(pair, bytes, length);
    connection_send(connection, OPCODE_BINARY, bytes, length);
}

/// The first message says which pair it is.
static void backend_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    if (connection->owner != NULL) return far_message(connection, opcode, bytes, length);
    struct pair *pair = NULL;
    if (length > sizeof head - 1 && memcmp(bytes, head, sizeof head - 1) == 0) {
        pair = pairs_find(strtoull(bytes + sizeof head - 1, NULL, 10));
    }
    if (pair == NULL || pair->server != NULL) {
        fail(EXIT_LOST, "the back end was greeted \"%.*s\"", length < 200 ? (int)length : 200, bytes);
    }
    connection->owner = pair;
    pair->server = connection;
    connection_send(connection, OPCODE_TEXT, paired, sizeof paired - 1);
    half_paired(pair, OPCODE_TEXT, paired, sizeof paired - 1);
}

static void backend_opened(struct connection *connection) {
    (void)connection;
}

static const struct connection_events nearEvents = {.opened = introduce, .message = near_message};
static const struct connection_events farEvents = {.opened = introduce, .message = far_message};
static const struct connection_events backendEvents = {.opened = backend_opened, .message = backend_message};

static void open_pair(struct pair *pair) {
    const struct load *load = pairs_load();
    uint32_t source = pair->index / PAIRS_PER_SOURCE;
    pair->client = connection_open(load->target, source, NULL, &nearEvents, pair);
    if (load->backend == NULL) pair->server = connection_open(load->target, source, NULL, &farEvents, pair);
}

static void send_payload(struct pair *pair, const char *payload, size_t length) {
    connection_send(pair->client, OPCODE_BINARY, payload, length);
}

const struct dialect pairDialect = {.open = open_pair, .send = send_payload, .hops = 2};

void pair_run(const struct options *options) {
    static struct measurement measurement;
    struct load load = load_from(options);
    load.dialect = &pairDialect;
    if (load.backend != NULL) connection_listen(load.backend, &backendEvents);
    pairs_run(&load, &measurement);
    printf("{\"scenario\": \"pair\", ");
    measurement_print_json(&load, &measurement);
    printf("}\n");
}
