// Setting a pair up takes four messages, each waiting for the one before:
//
//   server end -> create server credential        <- "<serverID> <credential>"
//   server end -> install server                  <- "1"
//   client end -> connect to server               <- "1"
//                                     server end  <- "connected:atPort:for: <channel>␟<port>␟<address>"
//
// Then, for each message:
//
//   client end -> forward to server               <- "1"
//                                     server end  <- "from:data: <channel>␟<data>"
//
// Lines that begin with "server: " are node-livecode's log lines; they are read and passed over.

#include "tunnel.h"

#include <stdio.h>
#include <string.h>

#include "fail.h"

enum { DELIMITER = 0x1F, PAIRS_PER_SOURCE = 250, PORT = 80 };

/// Steps of setting a pair up: what it waits for. A connection is told to both ends, in either order.
enum step { CREDENTIAL, INSTALLATION, CONNECTION, OTHER_HALF_OF_CONNECTION, READY };

static bool starts_with(const char *bytes, size_t length, const char *prefix) {
    size_t prefixLength = strlen(prefix);
    return length >= prefixLength && memcmp(bytes, prefix, prefixLength) == 0;
}

static bool is_log_line(const char *bytes, size_t length) {
    return starts_with(bytes, length, "server: ");
}

_Noreturn static void refuse(const struct pair *pair, const char *what, const char *bytes, size_t length) {
    fail(EXIT_LOST, "pair %u: %s was answered \"%.*s\"", pair->index, what, length < 200 ? (int)length : 200, bytes);
}

static void copy_text(char *target, size_t capacity, const char *bytes, size_t length, const struct pair *pair) {
    if (length == 0 || length >= capacity) refuse(pair, "setting up", bytes, length);
    memcpy(target, bytes, length);
    target[length] = 0;
}

/// A server id as JSON: a number where it is one, else a string.
static int json_id(char *text, size_t capacity, const char *id) {
    bool isNumber = strspn(id, "0123456789") == strlen(id);
    return snprintf(text, capacity, isNumber ? "%s" : "\"%s\"", id);
}

static void client_opened(struct connection *connection) {
    struct pair *pair = connection->owner;
    char id[70], text[200];
    json_id(id, sizeof id, pair->serverID);
    int length = snprintf(
        text, sizeof text, "{\"instruction\":\"connect to server\",\"parameters\":[%s,%d]}", id, PORT);
    connection_send(connection, OPCODE_TEXT, text, (size_t)length);
}

/// One end knows of the connection. The pair is ready when both do: the client has its "1", the server the channel.
static void half_connected(struct pair *pair) {
    pair->step += 1;
    if (pair->step == READY) pairs_ready(pair);
}

static void client_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    struct pair *pair = connection->owner;
    if (opcode == OPCODE_TEXT && length == 1 && bytes[0] == '1') {
        if (pair->step == READY) pairs_acknowledged(pair);
        else half_connected(pair);
        return;
    }
    if (!is_log_line(bytes, length)) refuse(pair, "a message of the client end", bytes, length);
}

static const struct connection_events clientEvents = {.opened = client_opened, .message = client_message};

static void server_opened(struct connection *connection) {
    static const char text[] = "{\"instruction\":\"create server credential\",\"parameters\":[]}";
    connection_send(connection, OPCODE_TEXT, text, sizeof text - 1);
}

static void credential_came(struct pair *pair, const char *bytes, size_t length) {
    const char *space = memchr(bytes, ' ', length);
    if (space == NULL) refuse(pair, "create server credential", bytes, length);
    copy_text(pair->serverID, sizeof pair->serverID, bytes, (size_t)(space - bytes), pair);
    copy_text(pair->credential, sizeof pair->credential, space + 1, length - (size_t)(space + 1 - bytes), pair);
    char id[70], text[400];
    json_id(id, sizeof id, pair->serverID);
    int textLength = snprintf(text, sizeof text, "{\"instruction\":\"install server\",\"parameters\":[%s,\"%s\"]}", id,
                              pair->credential);
    connection_send(pair->server, OPCODE_TEXT, text, (size_t)textLength);
    pair->step = INSTALLATION;
}

static void server_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    struct pair *pair = connection->owner;
    static const char data[] = "from:data: ", opened[] = "connected:atPort:for: ";
    if (opcode != OPCODE_TEXT) refuse(pair, "something (not as text)", bytes, length);
    if (starts_with(bytes, length, data)) {
        size_t channelLength = strlen(pair->channel), head = sizeof data - 1 + channelLength + 1;
        if (length < head || memcmp(bytes + sizeof data - 1, pair->channel, channelLength) != 0
            || bytes[head - 1] != DELIMITER) {
            fail(EXIT_LOST, "pair %u: the server end got another channel's message: \"%.*s\"", pair->index,
                 length < 60 ? (int)length : 60, bytes);
        }
        pairs_delivered(pair, bytes + head, length - head);
        return;
    }
    if (is_log_line(bytes, length)) return;
    switch (pair->step) {
    case CREDENTIAL:
        credential_came(pair, bytes, length);
        return;
    case INSTALLATION:
        if (length != 1 || bytes[0] != '1') refuse(pair, "install server", bytes, length);
        pair->step = CONNECTION;
        pair->client =
            connection_open(pairs_load()->target, pair->index / PAIRS_PER_SOURCE, NULL, &clientEvents, pair);
        return;
    case CONNECTION:
    case OTHER_HALF_OF_CONNECTION: {
        const char *end = memchr(bytes, DELIMITER, length);
        if (!starts_with(bytes, length, opened) || end == NULL) refuse(pair, "the server end", bytes, length);
        const char *channel = bytes + sizeof opened - 1;
        copy_text(pair->channel, sizeof pair->channel, channel, (size_t)(end - channel), pair);
        half_connected(pair);
        return;
    }
    default: refuse(pair, "the server end", bytes, length);
    }
}

static const struct connection_events serverEvents = {.opened = server_opened, .message = server_message};

static void open_pair(struct pair *pair) {
    pair->step = CREDENTIAL;
    pair->server = connection_open(pairs_load()->target, pair->index / PAIRS_PER_SOURCE, NULL, &serverEvents, pair);
}

static void send_payload(struct pair *pair, const char *payload, size_t length) {
    static const char head[] = "{\"instruction\":\"forward to server\",\"parameters\":[", tail[] = "\"]}";
    char key[80];
    int keyLength = json_id(key, sizeof key - 2, pair->channel);
    key[keyLength++] = ',';
    key[keyLength++] = '"';
    size_t total = sizeof head - 1 + (size_t)keyLength + length + sizeof tail - 1;
    char *text = connection_begin(pair->client, OPCODE_TEXT, total);
    memcpy(text, head, sizeof head - 1);
    text += sizeof head - 1;
    memcpy(text, key, (size_t)keyLength);
    text += keyLength;
    memcpy(text, payload, length);
    memcpy(text + length, tail, sizeof tail - 1);
    connection_end(pair->client);
}

const struct dialect tunnelDialect = {.open = open_pair, .send = send_payload, .acknowledges = true, .hops = 1};
