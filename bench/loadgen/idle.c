// Scenario `idle`: many connections that say nothing; what each keeps resident in the relay, and how fast they open.

#include <stdio.h>
#include <stdlib.h>

#include "echo.h"
#include "fail.h"
#include "scenario.h"

enum { OPENING_AT_ONCE = 128, CONNECTIONS_PER_SOURCE = 500 };

static uint32_t opened;

static void idle_opened(struct connection *connection) {
    (void)connection;
    opened += 1;
}

static void idle_message(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    (void)connection;
    (void)opcode;
    fail(EXIT_LOST, "an idle connection was sent \"%.*s\"", length < 200 ? (int)length : 200, bytes);
}

static const struct connection_events idleEvents = {.opened = idle_opened, .message = idle_message};

static void settle(int64_t duration) {
    for (int64_t end = now() + duration; now() < end;) loop_turn(10000000);
}

void idle_run(const struct options *options) {
    if (options->process == 0) fail(EXIT_USAGE, "idle needs --pid, the relay's process");
    uint32_t total = options->connections, started = 0;
    struct connection **connections = calloc(total, sizeof *connections);
    if (connections == NULL) fail(EXIT_LOST, "out of memory");

    if (options->backend != NULL) connection_listen(options->backend, &echoEvents);
    settle(options->settle);
    struct usage before = usage_of(options->process);
    int64_t startedAt = now(), moved = startedAt;
    for (uint32_t lastOpened = 0; opened < total;) {
        for (; started < total && started - opened < OPENING_AT_ONCE; started++) {
            connections[started] =
                connection_open(&options->target, started / CONNECTIONS_PER_SOURCE, NULL, &idleEvents, NULL);
        }
        loop_turn(10000000);
        if (opened != lastOpened) {
            lastOpened = opened;
            moved = now();
        } else if (now() - moved > 20000000000ll) {
            fail(EXIT_LOST, "only %u of %u connections opened; none for 20 s", opened, total);
        }
    }
    int64_t opening = now() - startedAt;
    struct usage open = usage_of(options->process);
    settle(options->settle);
    struct usage idle = usage_of(options->process);
    settle(options->duration);
    struct usage later = usage_of(options->process);
    for (uint32_t i = 0; i < total; i++) connection_abandon(connections[i]);
    settle(options->settle);
    struct usage after = usage_of(options->process);

    double count = total, seconds = (double)opening / 1e9;
    printf("{\"scenario\": \"idle\", \"connections\": %u, \"openedPerSecond\": %.0f, "
           "\"cpuMicrosecondsPerOpening\": %.2f, \"residentKiBBefore\": %lld, \"residentKiBIdle\": %lld, "
           "\"residentKiBClosed\": %lld, \"peakResidentKiB\": %lld, \"bytesPerConnection\": %.0f, "
           "\"idleCoresUsed\": %.5f}\n",
           total, count / seconds, (double)(open.cpu - before.cpu) / 1e3 / count, (long long)before.residentKiB,
           (long long)idle.residentKiB, (long long)after.residentKiB, (long long)after.peakResidentKiB,
           (double)(idle.residentKiB - before.residentKiB) * 1024 / count,
           (double)(later.cpu - idle.cpu) / (double)options->duration);
}
