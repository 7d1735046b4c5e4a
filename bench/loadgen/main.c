// The load generator: `loadgen SCENARIO --url ws://ADDRESS:PORT/ [options]`. Plays every end of every connection, back
// ends of a proxy included, on one thread, checks what arrives, and prints one JSON object. Exit codes: 0 done, 1 a check
// failed, 2 usage, 3 cannot reach the relay.

#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "scenario.h"

static const struct scenario scenarios[] = {
    {"pair", "raw messages, one end of a pair to the other and back", pair_run},
    {"setup", "connections that open, send one message, get it back and close", setup_run},
    {"forward", "messages through the tunnel instructions, client end to server end", forward_run},
    {"replace", "the same while `forward to server` is replaced over and over", replace_run},
    {"channel", "messages through channels of relay.v1, client to server and back", channel_run},
    {"fairness", "the same at a fixed rate, while other channels carry whatever they can", fairness_run},
    {"stalled", "the same while other channels are full, because their readers have stopped", stalled_run},
    {"stream", "one TCP stream through a tunnel, from the client to the back end", stream_run},
    {"webhook", "messages of WebSockets that reach a back end as HTTP requests", webhook_run},
    {"push", "messages that a back end sends to WebSockets by HTTP requests", push_run},
    {"idle", "connections that say nothing", idle_run},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

static void print_usage(void) {
    puts("usage: loadgen SCENARIO --url (ws|wss|tcp)://ADDRESS:PORT/ [options]\n\nscenarios:");
    for (int i = 0; i < SCENARIOS; i++) printf("  %-10s%s\n", scenarios[i].name, scenarios[i].summary);
    puts("\noptions:\n"
         "  --pid N                process of the relay, to read its CPU time and memory; repeatable\n"
         "  --backend URL          where to listen, behind what is measured (pair, setup, idle, stream, webhook, push)\n"
         "  --certificate FILE     certificate and key (PEM) of a back end that is wss://\n"
         "  --toward client        the stream comes from the back end (stream)\n"
         "  --core N               pin the generator to this core\n"
         "  --pairs N              pairs of connections (100)\n"
         "  --inflight N           messages under way per pair (8)\n"
         "  --size BYTES           payload of a message, at least 25 (64)\n"
         "  --rate N               relayed messages per second over all pairs, evenly; without it, closed loop\n"
         "  --burst N              messages that fall due together at a fixed rate (1)\n"
         "  --warmup SECONDS       before measuring (1)\n"
         "  --seconds SECONDS      measured window (3)\n"
         "  --credential-file FILE admin credential (replace, push, and channels)\n"
         "  --servers N            connections of servers that carry the channels; without it, one per pair\n"
         "  --multiplexed N        connections of clients that do; without it, clean ones, one per pair\n"
         "  --server-url URL       where servers connect; without it, where clients do (channels)\n"
         "  --bulk N               channels that carry whatever they can (fairness; 900)\n"
         "  --stalled N            channels whose reader has stopped (stalled; 1000)\n"
         "  --stall MODE           how: clean, client, grants or server (stalled; clean)\n"
         "  --body-file FILE       body of `forward to server`; up to 8, put in turn (replace)\n"
         "  --every MILLISECONDS   between replacements (50)\n"
         "  --connections N        idle connections (10000)\n"
         "  --concurrency N        connections under way (setup; 64)\n"
         "  --settle SECONDS       before memory is read, and before clients go where no server is (1)");
}

/// The text of a file without trailing line ends.
static char *text_of(const char *path) {
    FILE *file = fopen(path, "r");
    if (file == NULL) fail(EXIT_USAGE, "cannot read %s", path);
    static const size_t maximum = 1 << 20;
    char *text = malloc(maximum + 1);
    if (text == NULL) fail(EXIT_LOST, "out of memory");
    size_t length = fread(text, 1, maximum, file);
    fclose(file);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) length--;
    text[length] = 0;
    return text;
}

static double number_of(const char *name, const char *text, double minimum, double maximum) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != 0 || !(value >= minimum && value <= maximum)) {
        fail(EXIT_USAGE, "%s %s is not a number from %g to %g", name, text, minimum, maximum);
    }
    return value;
}

static void pin(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores) != 0) fail(EXIT_USAGE, "--core %d: there is no such core", core);
}

static struct options parse(int count, char **arguments) {
    struct options options = {
        .pairs = 100, .inFlight = 8, .burst = 1, .connections = 10000, .concurrency = 64, .bulk = 900, .stalled = 1000,
        .stallMode = "clean", .payloadBytes = 64,
        .warmup = 1000000000, .duration = 3000000000ll, .settle = 1000000000, .replaceEvery = 50000000,
    };
    const char *url = NULL;
    for (int i = 2; i < count; i += 2) {
        const char *name = arguments[i], *value = arguments[i + 1];
        if (value == NULL) fail(EXIT_USAGE, "%s needs a value; see loadgen --help", name);
        if (strcmp(name, "--url") == 0) url = value;
        else if (strcmp(name, "--pid") == 0) {
            if (options.processCount == PROCESSES) fail(EXIT_USAGE, "--pid: at most %d", PROCESSES);
            options.processes[options.processCount++] = (pid_t)number_of(name, value, 1, 1 << 30);
            options.process = options.processes[0];
        }
        else if (strcmp(name, "--toward") == 0) options.isTowardClient = strcmp(value, "client") == 0;
        else if (strcmp(name, "--core") == 0) pin((int)number_of(name, value, 0, CPU_SETSIZE - 1));
        else if (strcmp(name, "--pairs") == 0) options.pairs = (uint32_t)number_of(name, value, 1, 100000);
        else if (strcmp(name, "--inflight") == 0) options.inFlight = (uint32_t)number_of(name, value, 1, 65536);
        else if (strcmp(name, "--burst") == 0) options.burst = (uint32_t)number_of(name, value, 1, 65536);
        else if (strcmp(name, "--concurrency") == 0) options.concurrency = (uint32_t)number_of(name, value, 1, 10000);
        else if (strcmp(name, "--certificate") == 0) tls_use_certificate(value);
        else if (strcmp(name, "--backend") == 0) {
            static struct target backend;
            backend = target_parse(value);
            options.backend = &backend;
        }
        else if (strcmp(name, "--size") == 0) {
            options.payloadBytes = (size_t)number_of(name, value, PAYLOAD_HEAD_BYTES, 1 << 24);
        }
        else if (strcmp(name, "--rate") == 0) options.messagesPerSecond = number_of(name, value, 1, 1e9);
        else if (strcmp(name, "--warmup") == 0) options.warmup = (int64_t)(number_of(name, value, 0, 3600) * 1e9);
        else if (strcmp(name, "--seconds") == 0) options.duration = (int64_t)(number_of(name, value, 0.1, 3600) * 1e9);
        else if (strcmp(name, "--settle") == 0) options.settle = (int64_t)(number_of(name, value, 0, 3600) * 1e9);
        else if (strcmp(name, "--every") == 0) options.replaceEvery = (int64_t)(number_of(name, value, 1, 1e6) * 1e6);
        else if (strcmp(name, "--connections") == 0) options.connections = (uint32_t)number_of(name, value, 1, 1e6);
        else if (strcmp(name, "--servers") == 0) options.servers = (uint32_t)number_of(name, value, 1, 10000);
        else if (strcmp(name, "--server-url") == 0) {
            static struct target server;
            server = target_parse(value);
            options.serverTarget = &server;
        }
        else if (strcmp(name, "--bulk") == 0) options.bulk = (uint32_t)number_of(name, value, 0, 50000);
        else if (strcmp(name, "--stalled") == 0) options.stalled = (uint32_t)number_of(name, value, 0, 50000);
        else if (strcmp(name, "--stall") == 0) options.stallMode = value;
        else if (strcmp(name, "--multiplexed") == 0) options.multiplexed = (uint32_t)number_of(name, value, 1, 10000);
        else if (strcmp(name, "--credential-file") == 0) options.credential = text_of(value);
        else if (strcmp(name, "--body-file") == 0) {
            if (options.bodyCount == BODIES) fail(EXIT_USAGE, "--body-file: at most %d", BODIES);
            options.bodies[options.bodyCount++] = text_of(value);
        } else {
            fail(EXIT_USAGE, "there is no option %s; see loadgen --help", name);
        }
    }
    if (url == NULL) fail(EXIT_USAGE, "--url is missing; see loadgen --help");
    if (options.burst > options.inFlight) fail(EXIT_USAGE, "--burst is more than --inflight");
    options.target = target_parse(url);
    return options;
}

int main(int count, char **arguments) {
    if (count < 2 || strcmp(arguments[1], "--help") == 0) {
        print_usage();
        return count < 2 ? EXIT_USAGE : 0;
    }
    for (int i = 0; i < SCENARIOS; i++) {
        if (strcmp(arguments[1], scenarios[i].name) != 0) continue;
        static struct options options;
        options = parse(count, arguments);
        loop_start();
        scenarios[i].run(&options);
        return 0;
    }
    fail(EXIT_USAGE, "there is no scenario %s; see loadgen --help", arguments[1]);
}
