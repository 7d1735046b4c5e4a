// WebSockets whose back end speaks HTTP. Setting a pair up:
//
//   client -> opening handshake          relay -> POST {"code":"NEW_CONNECTION","ws_uri":"…/ID"} -> back end
//   client <- 101                        relay <- 200 {"code":"OK"}                              <- back end
//   client -> its number                 relay -> PUT  …/ID its number                           -> back end
//
// Then `webhook`:  client -> message     relay -> PUT …/ID message -> back end
// and `push`:      back end -> PUT /…/ID message (a connection for each pair)   relay -> message -> client
//                  back end <- 200 {"code":"OK"}
//
// The back end is the generator's; every message arrives with the bytes and in the order that its pair sent them.

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "http.h"
#include "scenario.h"

enum { PAIRS_PER_SOURCE = 250, ID_BYTES = 128, URI_BYTES = 512 };

/// What is kept of a pair: the id of its connection, and where to push.
struct hook {
    char id[ID_BYTES], path[URI_BYTES];
};

static struct {
    const struct options *options;
    struct hook *hooks;  // By pair.
    struct hook *greeted;  // Of connections that have not said their number.
    uint32_t greetedCount;
    bool isPushing;
} run;

static const char okay[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
                           "{\"code\":\"OK\"}";

// MARK: The clients

static void client_opened(struct connection *connection) {
    struct pair *pair = connection->owner;
    char text[16];
    int length = snprintf(text, sizeof text, "pair %u", pair->index);
    connection_send(connection, OPCODE_TEXT, text, (size_t)length);
}

static void client_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    struct pair *pair = connection->owner;
    if (!run.isPushing || opcode != OPCODE_BINARY) {
        fail(EXIT_LOST, "pair %u got \"%.*s\"", pair->index, length < 200 ? (int)length : 200, bytes);
    }
    pairs_delivered(pair, bytes, length);
}

static const struct connection_events clientEvents = {.opened = client_opened, .message = client_message};

static void open_pair(struct pair *pair) {
    pair->client = connection_open(
        &run.options->target, pair->index / PAIRS_PER_SOURCE, NULL, &clientEvents, pair);
}

// MARK: The back end

static void nothing(struct connection *connection) {
    (void)connection;
}

/// The part of a path behind its last slash.
static void copy_id(char id[ID_BYTES], const char *path, size_t length) {
    const char *slash = memrchr(path, '/', length);
    size_t idLength = slash == NULL ? 0 : length - (size_t)(slash + 1 - path);
    if (idLength == 0 || idLength >= ID_BYTES) fail(EXIT_LOST, "\"%.*s\" ends in no id", (int)length, path);
    memcpy(id, slash + 1, idLength);
    id[idLength] = 0;
}

/// A connection is announced: `"ws_uri":"[http://]HOST:PORT/PATH/ID"`.
static void announced(const struct http_message *request) {
    static const char name[] = "\"ws_uri\"";
    const char *end = request->body + request->bodyLength;
    const char *at = memmem(request->body, request->bodyLength, name, sizeof name - 1);
    const char *start = at == NULL ? NULL : memchr(at + sizeof name - 1, '"', (size_t)(end - at) - sizeof name + 1);
    const char *stop = start == NULL ? NULL : memchr(start + 1, '"', (size_t)(end - start - 1));
    if (stop == NULL) fail(EXIT_LOST, "no ws_uri in \"%.*s\"", (int)request->bodyLength, request->body);
    char uri[URI_BYTES];
    size_t length = 0;
    for (const char *from = start + 1; from < stop && length < sizeof uri - 1; from++) {
        if (*from != '\\') uri[length++] = *from;  // "\/" is a slash.
    }
    uri[length] = 0;
    char *host = strstr(uri, "://");
    char *path = strchr(host == NULL ? uri : host + 3, '/');
    if (path == NULL || run.greetedCount == pairs_load()->pairs) fail(EXIT_LOST, "ws_uri is \"%s\"", uri);
    struct hook *hook = &run.greeted[run.greetedCount++];
    copy_id(hook->id, path, strlen(path));
    strcpy(hook->path, path);
}

static void push_opened(struct connection *connection);
static size_t push_answered(struct connection *connection, const char *bytes, size_t length);
static const struct connection_events pushEvents = {.opened = push_opened, .bytes = push_answered};

/// The first message of a connection says which pair it is.
static void introduced(const struct http_message *request, const char *id) {
    // What stands behind a body in memory is none of it.
    char digits[11] = "";
    memcpy(digits, request->body + 5, request->bodyLength - 5 < 10 ? request->bodyLength - 5 : 10);
    struct pair *pair = pairs_find(strtoull(digits, NULL, 10));
    struct hook *hook = NULL;
    for (uint32_t i = 0; i < run.greetedCount && hook == NULL; i++) {
        if (strcmp(run.greeted[i].id, id) == 0) hook = &run.greeted[i];
    }
    if (pair == NULL || hook == NULL || run.hooks[pair->index].id[0] != 0) {
        fail(EXIT_LOST, "the back end was sent \"%.*s\" of %s", (int)request->bodyLength, request->body, id);
    }
    run.hooks[pair->index] = *hook;
    if (!run.isPushing) return pairs_ready(pair);
    pair->server = connection_open(&run.options->target, pair->index / PAIRS_PER_SOURCE, NULL, &pushEvents, pair);
}

/// A message of a client.
static void came(const struct http_message *request) {
    char id[ID_BYTES];
    copy_id(id, request->target, request->targetLength);
    if (request->bodyLength > 5 && memcmp(request->body, "pair ", 5) == 0) return introduced(request, id);
    char index[9] = "";  // PAYLOAD_HEAD_BYTES: the payload begins with the pair's number in hex.
    if (request->bodyLength >= PAYLOAD_HEAD_BYTES) memcpy(index, request->body, 8);
    struct pair *pair = index[0] == 0 ? NULL : pairs_find(strtoull(index, NULL, 16));
    if (pair == NULL || strcmp(run.hooks[pair->index].id, id) != 0) {
        fail(EXIT_LOST, "the back end was sent another connection's message: %s", id);
    }
    pairs_delivered(pair, request->body, request->bodyLength);
}

static size_t requested(struct connection *connection, const char *bytes, size_t length) {
    struct http_message request;
    size_t taken = http_take(&request, bytes, length);
    if (taken == 0) return 0;
    if (http_is(&request, "POST")) announced(&request);
    else if (http_is(&request, "PUT")) came(&request);
    else fail(EXIT_LOST, "the back end was asked \"%.*s\"", (int)request.startLength, request.start);
    connection_write(connection, okay, sizeof okay - 1);
    return taken;
}

/// The relay may close what it does not need.
static const struct connection_events backendEvents = {.opened = nothing, .closed = nothing, .bytes = requested};

static void send_message(struct pair *pair, const char *payload, size_t length) {
    connection_send(pair->client, OPCODE_BINARY, payload, length);
}

// MARK: Pushing

static void push_opened(struct connection *connection) {
    pairs_ready(connection->owner);
}

static size_t push_answered(struct connection *connection, const char *bytes, size_t length) {
    struct http_message answer;
    size_t taken = http_take(&answer, bytes, length);
    if (taken == 0) return 0;
    if (answer.status != 200 || memmem(answer.body, answer.bodyLength, "\"OK\"", 4) == NULL) {
        fail(EXIT_LOST, "a push was answered %d \"%.*s\"", answer.status, (int)answer.bodyLength, answer.body);
    }
    pairs_acknowledged(connection->owner);
    return taken;
}

static void push(struct pair *pair, const char *payload, size_t length) {
    char head[1024];
    int headLength = snprintf(
        head, sizeof head, "PUT %s HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer %s\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n\r\n", run.hooks[pair->index].path,
        run.options->credential, length);
    connection_write(pair->server, head, (size_t)headLength);
    connection_write(pair->server, payload, length);
}

// MARK: Running

static void run_dialect(const struct options *options, const struct dialect *dialect, const char *name) {
    static struct measurement measurement;
    if (options->backend == NULL) fail(EXIT_USAGE, "%s needs --backend", name);
    run.options = options;
    run.hooks = calloc(options->pairs, sizeof *run.hooks);
    run.greeted = calloc(options->pairs, sizeof *run.greeted);
    if (run.hooks == NULL || run.greeted == NULL) fail(EXIT_LOST, "out of memory");
    connection_listen(options->backend, &backendEvents);
    struct load load = load_from(options);
    load.dialect = dialect;
    pairs_run(&load, &measurement);
    printf("{\"scenario\": \"%s\", ", name);
    measurement_print_json(&load, &measurement);
    printf("}\n");
}

void webhook_run(const struct options *options) {
    static const struct dialect webhookDialect = {.open = open_pair, .send = send_message, .hops = 1};
    run_dialect(options, &webhookDialect, "webhook");
}

void push_run(const struct options *options) {
    static const struct dialect pushDialect = {.open = open_pair, .send = push, .acknowledges = true, .hops = 1};
    if (options->credential == NULL) fail(EXIT_USAGE, "push needs --credential-file");
    run.isPushing = true;
    run_dialect(options, &pushDialect, "push");
}
