// Scenario `setup`: WebSockets that open, send one message, get it back and close, a fixed number of them under way.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "echo.h"
#include "fail.h"
#include "histogram.h"
#include "process.h"
#include "scenario.h"

enum { SOURCES = 249 };  // 127.0.0.2 to 127.0.0.250: no run takes the ports of all of them.

static const int64_t STALL = 20ll * 1000000000;

/// One of those under way: a connection, and the next one in its place when it is gone.
struct place {
    int64_t startedAt;
    struct tls_session *session;  // The last ticket; the next connection resumes by it.
};

static struct {
    const struct options *options;
    uint64_t opened, closed, resumed;
    int64_t closedAt;  // When the last one was closed.
    bool isStarting, isMeasured;
    struct histogram duration;
} run;

static void open_next(struct place *place);

static void opened(struct connection *connection) {
    if (connection->tls != NULL && tls_is_resumed(connection->tls)) run.resumed += run.isMeasured;
    echo_ask(connection);
}

static void answered(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    echo_check(run.options->backend != NULL, opcode, bytes, length);
    connection_close(connection);
}

static void closed(struct connection *connection) {
    struct place *place = connection->owner;
    run.closed += 1;
    run.closedAt = loop_time();
    if (run.isMeasured) histogram_record(&run.duration, now() - place->startedAt);
    open_next(place);
}

static const struct connection_events setupEvents = {.opened = opened, .message = answered, .closed = closed};

static void open_next(struct place *place) {
    if (!run.isStarting) return;
    place->startedAt = now();
    uint32_t source = 1 + (uint32_t)(run.opened++ % SOURCES);
    connection_open(&run.options->target, source, &place->session, &setupEvents, place);
}

static void run_for(int64_t duration) {
    for (int64_t end = now() + duration, time; (time = now()) < end;) {
        loop_turn(1000000);
        if (time - run.closedAt > STALL) {
            fail(EXIT_LOST, "no connection was opened and closed for %d s", (int)(STALL / 1000000000));
        }
    }
}

void setup_run(const struct options *options) {
    if (options->process == 0) fail(EXIT_USAGE, "setup needs --pid, the relay's process");
    run.options = options;
    if (options->backend != NULL) connection_listen(options->backend, &echoEvents);
    struct place *places = calloc(options->concurrency, sizeof *places);
    if (places == NULL) fail(EXIT_LOST, "out of memory");
    run.closedAt = now();
    run.isStarting = true;
    for (uint32_t i = 0; i < options->concurrency; i++) open_next(&places[i]);
    run_for(options->warmup);

    struct usage before = usage_of(options->process), ownBefore = usage_of(getpid());
    uint64_t closedBefore = run.closed;
    int64_t started = now();
    run.isMeasured = true;
    run_for(options->duration);
    run.isMeasured = false;
    double count = (double)(run.closed - closedBefore), seconds = (double)(now() - started) / 1e9;
    struct usage after = usage_of(options->process), ownAfter = usage_of(getpid());

    // Those under way still have to be answered and closed.
    run.isStarting = false;
    while (run.closed < run.opened) run_for(1000000);
    if (count == 0) fail(EXIT_LOST, "no connection was opened and closed in the measured window");
    if (options->target.isTLS && (double)run.resumed < 0.99 * count - options->concurrency) {
        fail(EXIT_LOST, "only %llu of %.0f connections resumed a session", (unsigned long long)run.resumed, count);
    }
    printf("{\"scenario\": \"setup\", \"concurrency\": %u, \"seconds\": %.3f, \"connections\": %.0f, "
           "\"connectionsPerSecond\": %.0f, \"resumed\": %llu, \"durationMicroseconds\": ",
           options->concurrency, seconds, count, count / seconds, (unsigned long long)run.resumed);
    histogram_print_json(&run.duration);
    printf(", \"relay\": {\"cpuMicrosecondsPerConnection\": %.3f, \"coresUsed\": %.3f, "
           "\"waitedForCoreMilliseconds\": %.1f}, \"generator\": {\"coresUsed\": %.3f}}\n",
           (double)(after.cpu - before.cpu) / 1e3 / count, (double)(after.cpu - before.cpu) / 1e9 / seconds,
           (double)(after.waited - before.waited) / 1e6, (double)(ownAfter.cpu - ownBefore.cpu) / 1e9 / seconds);
}
