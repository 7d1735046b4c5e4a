// Scenarios `forward` and `replace`: messages through `forward to server`, and the same while that very instruction is
// replaced over and over.

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "scenario.h"
#include "tunnel.h"

struct load load_from(const struct options *options) {
    return (struct load){
        .target = &options->target,
        .backend = options->backend,
        .processes = options->processes,
        .processCount = options->processCount,
        .pairs = options->pairs,
        .inFlight = options->inFlight,
        .payloadBytes = options->payloadBytes,
        .messagesPerSecond = options->messagesPerSecond,
        .burst = options->burst,
        .warmup = options->warmup,
        .duration = options->duration,
    };
}

void forward_run(const struct options *options) {
    static struct measurement measurement;
    struct load load = load_from(options);
    load.dialect = &tunnelDialect;
    pairs_run(&load, &measurement);
    printf("{\"scenario\": \"forward\", ");
    measurement_print_json(&load, &measurement);
    printf("}\n");
}

// MARK: Replacing

/// A message counts as near a replacement when it was under way during the call or was sent within this time after it:
/// retiring the old version may go on after the answer.
static const int64_t AFTERMATH = 5000000;

static struct {
    const struct options *options;
    struct connection *admin;
    bool isOpen, isUnderway, isMeasured;
    uint64_t sent, calls, skipped;
    int64_t requestedAt, repliedAt, nextAt;
    struct histogram callTime, near, away;
    char *messages[BODIES];  // JSON texts without the id and the closing brace.
} replacer;

/// `text` as a JSON string, quotes included; the caller frees it.
static char *json_string(const char *text) {
    char *quoted = malloc(strlen(text) * 6 + 3), *out = quoted;
    if (quoted == NULL) fail(EXIT_LOST, "out of memory");
    *out++ = '"';
    for (; *text != 0; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\') {
            *out++ = '\\';
            *out++ = *text;
        } else if (byte < 0x20) {
            out += sprintf(out, "\\u%04x", byte);
        } else {
            *out++ = *text;
        }
    }
    *out++ = '"';
    *out = 0;
    return quoted;
}

static void make_messages(const struct options *options) {
    char *credential = json_string(options->credential);
    for (int i = 0; i < options->bodyCount; i++) {
        char *body = json_string(options->bodies[i]);
        int length = asprintf(&replacer.messages[i],
            "{\"instruction\":\"add instruction\",\"credential\":%s,\"parameters\":{\"instructionToAdd\":"
            "\"forward to server\",\"body\":%s},\"id\":", credential, body);
        if (length < 0) fail(EXIT_LOST, "out of memory");
        free(body);
    }
    free(credential);
}

static void admin_opened(struct connection *connection) {
    (void)connection;
    replacer.isOpen = true;
}

static void admin_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    (void)connection;
    (void)opcode;
    if (length > 8 && memcmp(bytes, "server: ", 8) == 0) return;
    if (memmem(bytes, length, "\"result\"", 8) == NULL || !replacer.isUnderway) {
        fail(EXIT_LOST, "add instruction was answered \"%.*s\"", length < 400 ? (int)length : 400, bytes);
    }
    replacer.isUnderway = false;
    replacer.repliedAt = now();
    if (!replacer.isMeasured) return;
    replacer.calls += 1;
    histogram_record(&replacer.callTime, replacer.repliedAt - replacer.requestedAt);
}

static const struct connection_events adminEvents = {.opened = admin_opened, .message = admin_message};

/// Puts the next body.
static void replace(int64_t time) {
    char *text;
    int length = asprintf(&text, "%s%llu}", replacer.messages[replacer.sent % (uint64_t)replacer.options->bodyCount],
                          (unsigned long long)replacer.sent);
    if (length < 0) fail(EXIT_LOST, "out of memory");
    connection_send(replacer.admin, OPCODE_TEXT, text, (size_t)length);
    free(text);
    replacer.sent += 1;
    replacer.isUnderway = true;
    replacer.requestedAt = time;
}

/// The relay's CPU time for one replacement, in microseconds: many in a row, each after the answer to the last, with no
/// other load. Unlike a latency it does not tell of the neighbours.
static double cost_of_replacing(void) {
    static const int count = 500;
    struct usage before = usage_of(replacer.options->process);
    for (int i = 0; i < count; i++) {
        int64_t started = now();
        replace(started);
        while (replacer.isUnderway) {
            loop_turn(1000000);
            if (now() - started > 10000000000ll) fail(EXIT_LOST, "add instruction was not answered for 10 s");
        }
    }
    return (double)(usage_of(replacer.options->process).cpu - before.cpu) / 1e3 / count;
}

static void replace_when_due(int64_t time, bool isMeasured) {
    replacer.isMeasured = isMeasured;
    if (replacer.admin == NULL) {
        replacer.admin = connection_open(&replacer.options->target, 0, NULL, &adminEvents, NULL);
        replacer.nextAt = time;
    }
    if (!replacer.isOpen || time < replacer.nextAt) return;
    replacer.nextAt += replacer.options->replaceEvery;
    if (replacer.isUnderway) {
        replacer.skipped += isMeasured;
        return;
    }
    replace(time);
}

static void observe(int64_t startedAt, int64_t deliveredAt) {
    bool isNear = replacer.isUnderway || (replacer.repliedAt != 0 && startedAt <= replacer.repliedAt + AFTERMATH);
    histogram_record(isNear ? &replacer.near : &replacer.away, deliveredAt - startedAt);
}

void replace_run(const struct options *options) {
    if (options->credential == NULL || options->bodyCount == 0) {
        fail(EXIT_USAGE, "replace needs --credential-file FILE and --body-file FILE (several are put in turn)");
    }
    static struct measurement measurement;
    struct load load = load_from(options);
    load.dialect = &tunnelDialect;
    load.everyTurn = replace_when_due;
    load.observed = observe;
    replacer.options = options;
    make_messages(options);
    pairs_run(&load, &measurement);
    while (replacer.isUnderway) loop_turn(1000000);
    if (replacer.calls == 0) fail(EXIT_LOST, "no replacement was answered in the measured window");
    replacer.isMeasured = false;
    double cost = options->process == 0 ? 0 : cost_of_replacing();
    printf("{\"scenario\": \"replace\", ");
    measurement_print_json(&load, &measurement);
    printf(", \"replacements\": %llu, \"skipped\": %llu, "
           "\"cpuMicrosecondsPerReplacement\": %.1f, \"callMicroseconds\": ",
           (unsigned long long)replacer.calls, (unsigned long long)replacer.skipped, cost);
    histogram_print_json(&replacer.callTime);
    printf(", \"nearMicroseconds\": ");
    histogram_print_json(&replacer.near);
    printf(", \"awayMicroseconds\": ");
    histogram_print_json(&replacer.away);
    printf("}\n");
}
