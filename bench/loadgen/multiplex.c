#define _GNU_SOURCE
#include "multiplex.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"

enum { HEAD_BYTES = 5 };
enum type { DATA = 0x00, TEXT = 0x01, MORE = 0x80, OPEN_CHANNEL = 0x10, ACCEPT, REJECT, CREDIT, END, CLOSE, DRAIN };

// MARK: Frames out

/// Starts a frame; returns where its payload goes. Ends in `connection_end`.
static char *begin_frame(struct multiplex *multiplex, int type, uint32_t number, size_t length) {
    char *frame = connection_begin(multiplex->connection, OPCODE_BINARY, HEAD_BYTES + length);
    uint32_t order = htonl(number);
    frame[0] = (char)type;
    memcpy(frame + 1, &order, sizeof order);
    return frame + HEAD_BYTES;
}

static void send_frame(struct multiplex *multiplex, int type, uint32_t number, const void *bytes, size_t length) {
    memcpy(begin_frame(multiplex, type, number, length), bytes, length);
    connection_end(multiplex->connection);
}

static void send_number(struct channel *channel, enum type type, uint32_t value) {
    uint32_t order = htonl(value);
    send_frame(channel->multiplex, type, channel->number, &order, sizeof order);
}

static void grant(struct channel *channel, enum type type, uint32_t bytes) {
    channel->granted += bytes;
    send_number(channel, type, bytes);
}

static void send_piece(struct channel *channel, const char *bytes, size_t length, bool isLast) {
    channel->credit -= (int64_t)length;
    send_frame(channel->multiplex, isLast ? DATA : DATA | MORE, channel->number, bytes, length);
}

static void send_waiting(struct channel *channel) {
    struct bytes *waiting = &channel->waiting;
    while (waiting->length > 0) {
        uint32_t length;
        memcpy(&length, waiting->start, sizeof length);
        size_t piece = length <= channel->credit ? length : (size_t)channel->credit;
        if (piece == 0 && length > 0) return;
        send_piece(channel, waiting->start + sizeof length, piece, piece == length);
        if (piece == length) {
            bytes_drop(waiting, sizeof length + piece);
        } else {
            // The rest is a message of its own, with its length in front.
            length -= (uint32_t)piece;
            bytes_drop(waiting, piece);
            memcpy(waiting->start, &length, sizeof length);
        }
    }
}

void channel_send(struct channel *channel, const char *bytes, size_t length) {
    if (channel->waiting.length == 0 && channel->credit >= (int64_t)length) {
        send_piece(channel, bytes, length, true);
        return;
    }
    uint32_t head = (uint32_t)length;
    bytes_append(&channel->waiting, &head, sizeof head);
    bytes_append(&channel->waiting, bytes, length);
    send_waiting(channel);
}

// MARK: Frames in

static struct channel *make_channel(struct multiplex *multiplex, uint32_t number) {
    uint32_t index = number / 2;
    if (index >= multiplex->capacity) {
        uint32_t capacity = index < 512 ? 1024 : 2 * index;
        multiplex->channels = realloc(multiplex->channels, capacity * sizeof(struct channel *));
        if (multiplex->channels == NULL) fail(EXIT_LOST, "out of memory");
        memset(multiplex->channels + multiplex->capacity, 0,
               (capacity - multiplex->capacity) * sizeof(struct channel *));
        multiplex->capacity = capacity;
    }
    struct channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL) fail(EXIT_LOST, "out of memory");
    *channel = (struct channel){.multiplex = multiplex, .number = number};
    return multiplex->channels[index] = channel;
}

static struct channel *find(const struct multiplex *multiplex, uint32_t number) {
    struct channel *channel = number / 2 < multiplex->capacity ? multiplex->channels[number / 2] : NULL;
    return channel != NULL && channel->number == number ? channel : NULL;
}

/// A member of an `open`, which is the relay's JSON: without spaces, and with strings that hold no quotes.
static uint64_t member(const char *json, size_t length, const char *name) {
    const char *found = memmem(json, length, name, strlen(name));
    if (found == NULL) fail(EXIT_LOST, "an open came without %s \"%.*s\"", name, (int)length, json);
    return strtoull(found + strlen(name), NULL, 10);
}

static void asked(struct multiplex *multiplex, uint32_t number, const char *json, size_t length) {
    if (!multiplex->isServer || number <= multiplex->lastNumber || number % 2 != 0) {
        fail(EXIT_LOST, "an open came out of turn, for channel %u", number);
    }
    multiplex->lastNumber = number;
    struct channel *channel = make_channel(multiplex, number);
    channel->credit = (int64_t)member(json, length, "\"credit\":");
    channel->port = (uint32_t)member(json, length, "\"port\":");
    grant(channel, ACCEPT, CHANNEL_CREDIT);
    multiplex->events->asked(channel);
}

static void data_came(struct channel *channel, bool isLast, const char *bytes, size_t length) {
    channel->granted -= (int64_t)length;
    if (channel->granted < 0) fail(EXIT_LOST, "channel %u got more than was granted", channel->number);
    channel->taken += (int64_t)length;
    if (channel->taken >= CHANNEL_CREDIT / 2 && !channel->isStopped) {
        grant(channel, CREDIT, (uint32_t)channel->taken);
        channel->taken = 0;
    }
    channel->multiplex->events->piece(channel, bytes, length, isLast);
}

static uint32_t number_in(const char *bytes, size_t length) {
    uint32_t order;
    if (length != sizeof order) fail(EXIT_LOST, "a frame of channels came with %zu bytes instead of 4", length);
    memcpy(&order, bytes, sizeof order);
    return ntohl(order);
}

static void frame_came(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    struct multiplex *multiplex = connection->owner;
    if (opcode != OPCODE_BINARY || length < HEAD_BYTES) {
        fail(EXIT_LOST, "a multiplexed connection got \"%.*s\"", length < 200 ? (int)length : 200, bytes);
    }
    unsigned char type = (unsigned char)bytes[0];
    uint32_t number = number_in(bytes + 1, 4);
    bytes += HEAD_BYTES;
    length -= HEAD_BYTES;
    if (type == OPEN_CHANNEL) return asked(multiplex, number, bytes, length);
    struct channel *channel = find(multiplex, number);
    if (channel == NULL) fail(EXIT_LOST, "a frame of type %d came for channel %u, which there is not", type, number);
    switch (type) {
    case DATA: return data_came(channel, true, bytes, length);
    case DATA | MORE: return data_came(channel, false, bytes, length);
    case TEXT:
    case TEXT | MORE: fail(EXIT_LOST, "channel %u: a binary message became a text", number);
    case ACCEPT:
        channel->credit += number_in(bytes, length);
        return multiplex->events->ready(channel);
    case CREDIT:
        channel->credit += number_in(bytes, length);
        return send_waiting(channel);
    default:
        fail(EXIT_LOST, "channel %u was told %#x: %d %.*s", number, type,
             length >= 2 ? (unsigned char)bytes[0] << 8 | (unsigned char)bytes[1] : 0,
             length > 2 ? (int)length - 2 : 0, bytes + 2);
    }
}

// MARK: Opening

static void opened(struct connection *connection) {
    struct multiplex *multiplex = connection->owner;
    multiplex->isOpen = true;
    multiplex->events->opened(multiplex);
}

static const struct connection_events events = {.opened = opened, .message = frame_came};

struct target target_at(const struct target *relay, const char *path, const char *credential) {
    struct target target = *relay;
    int length = snprintf(target.path, sizeof target.path, "%s%s%s", path, credential ? "?credential=" : "",
                          credential ? credential : "");
    if ((size_t)length >= sizeof target.path) fail(EXIT_USAGE, "the credential is too long");
    return target;
}

void multiplex_open(struct multiplex *multiplex, const struct target *relay, const char *credential,
                    const char *server, uint32_t source, const struct multiplex_events *multiplexEvents) {
    char path[64] = "/";
    if (server != NULL) snprintf(path, sizeof path, "/s/%s", server);
    *multiplex = (struct multiplex){
        .events = multiplexEvents, .isServer = server != NULL, .target = target_at(relay, path, credential)};
    multiplex->target.subprotocol = "relay.v1";
    multiplex->connection = connection_open(&multiplex->target, source, NULL, &events, multiplex);
}

struct channel *multiplex_connect(struct multiplex *multiplex, const char *server, uint32_t port, void *owner) {
    char json[128];
    int length = snprintf(json, sizeof json, "{\"server\":\"%s\",\"port\":%u,\"credit\":%d}", server, port,
                          CHANNEL_CREDIT);
    multiplex->lastNumber = multiplex->lastNumber == 0 ? 1 : multiplex->lastNumber + 2;
    struct channel *channel = make_channel(multiplex, multiplex->lastNumber);
    channel->owner = owner;
    channel->granted = CHANNEL_CREDIT;
    send_frame(multiplex, OPEN_CHANNEL, channel->number, json, (size_t)length);
    return channel;
}
