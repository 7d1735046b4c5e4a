#define _GNU_SOURCE
#include "pairs.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"

enum { OPENING_AT_ONCE = 64 };

static const int64_t SECOND = 1000000000;
static const int64_t STALL = 20ll * 1000000000;  // Nothing moved for so long: lost, not late.

static struct {
    const struct load *load;
    struct measurement *measurement;
    struct pair *pairs;
    uint32_t opened, ready;
    int64_t paceStarted;
    uint64_t paceNext;  // Bursts due so far, over all pairs.
    uint64_t relayed;
    bool isSending, isMeasured, isRealtime;
    char *payload;
} run;

// MARK: Messages

const struct load *pairs_load(void) {
    return run.load;
}

/// Two digits at a time: this runs twice for every message.
static void write_hex(char *text, uint64_t value, int digits) {
    static char hex[256][2];
    if (hex[0][0] == 0) {
        for (int i = 0; i < 256; i++) {
            hex[i][0] = "0123456789abcdef"[i >> 4];
            hex[i][1] = "0123456789abcdef"[i & 15];
        }
    }
    for (int i = digits - 2; i >= 0; i -= 2, value >>= 8) memcpy(text + i, hex[value & 255], 2);
}

/// The payload of message `sequence` of `pair`; valid until the next call.
static const char *payload_of(const struct pair *pair, uint64_t sequence) {
    write_hex(run.payload, pair->index, 8);
    write_hex(run.payload + 9, sequence, 16);
    return run.payload;
}

static void make_payload_template(size_t length) {
    run.payload = malloc(length);
    if (run.payload == NULL) fail(EXIT_LOST, "out of memory");
    for (size_t i = 0; i < length; i++) run.payload[i] = (char)('a' + i % 26);
    run.payload[8] = '-';
}

/// When burst `number`, counted over all pairs, falls due, from the start of the pace.
static int64_t burst_time(uint64_t number) {
    const struct load *load = run.load;
    return (int64_t)((double)number * load->burst * load->dialect->hops / load->messagesPerSecond * 1e9);
}

/// When message `sequence` of the pair falls due at the fixed rate.
static int64_t due_time(const struct pair *pair, uint64_t sequence) {
    uint64_t burst = sequence / run.load->burst;
    return run.paceStarted + burst_time(burst * run.load->pairs + pair->index);
}

/// Sends what is due and fits into the window.
static void pump(struct pair *pair) {
    const struct load *load = run.load;
    while (run.isSending) {
        uint64_t done = pair->delivered;
        if (load->dialect->acknowledges && pair->acknowledged < done) done = pair->acknowledged;
        if (pair->sent - done >= load->inFlight) return;
        if (load->messagesPerSecond > 0 && pair->sent >= pair->due) return;
        pair->startedAt[pair->sent % load->inFlight] =
            load->messagesPerSecond > 0 ? due_time(pair, pair->sent) : loop_time();
        load->dialect->send(pair, payload_of(pair, pair->sent), load->payloadBytes);
        pair->sent += 1;
    }
}

/// What came must be message `sequence` of the pair, one of the first `sent`.
static void check(const struct pair *pair, uint64_t sequence, uint64_t sent, const char *payload, size_t length) {
    if (sequence >= sent) fail(EXIT_LOST, "pair %u got a message that was not sent", pair->index);
    if (length != run.load->payloadBytes || memcmp(payload, payload_of(pair, sequence), length) != 0) {
        fail(EXIT_LOST, "pair %u: message %llu was lost, reordered, duplicated or altered; got \"%.*s\"", pair->index,
             (unsigned long long)sequence, length < 60 ? (int)length : 60, payload);
    }
    run.relayed += 1;
}

void pairs_arrived(struct pair *pair, const char *payload, size_t length) {
    const struct load *load = run.load;
    check(pair, pair->arrived, pair->sent, payload, length);
    if (run.isMeasured && load->arrived != NULL) {
        load->arrived(pair->startedAt[pair->arrived % load->inFlight], loop_time());
    }
    pair->arrived += 1;
}

void pairs_delivered(struct pair *pair, const char *payload, size_t length) {
    const struct load *load = run.load;
    uint64_t sequence = pair->delivered;
    check(pair, sequence, load->dialect->hops > 1 ? pair->arrived : pair->sent, payload, length);
    pair->delivered += 1;
    if (run.isMeasured) {
        int64_t startedAt = pair->startedAt[sequence % load->inFlight], time = loop_time();
        histogram_record(&run.measurement->latency, time - startedAt);
        if (load->observed != NULL) load->observed(startedAt, time);
    }
    pump(pair);
}

void pairs_acknowledged(struct pair *pair) {
    if (pair->acknowledged >= pair->sent) fail(EXIT_LOST, "pair %u was told of a message not sent", pair->index);
    pair->acknowledged += 1;
    pump(pair);
}

// MARK: The run

static void open_more(void) {
    while (run.opened < run.load->pairs && run.opened - run.ready < OPENING_AT_ONCE) {
        struct pair *pair = &run.pairs[run.opened];
        pair->index = run.opened++;
        pair->startedAt = calloc(run.load->inFlight, sizeof *pair->startedAt);
        if (pair->startedAt == NULL) fail(EXIT_LOST, "out of memory");
        run.load->dialect->open(pair);
    }
}

struct pair *pairs_find(uint64_t index) {
    return index < run.opened ? &run.pairs[index] : NULL;
}

void pairs_ready(struct pair *pair) {
    (void)pair;
    run.ready += 1;
    open_more();
}

static void set_up(void) {
    int64_t started = now();
    open_more();
    while (run.ready < run.load->pairs) {
        loop_turn(SECOND);
        if (now() - started > STALL) {
            fail(EXIT_LOST, "only %u of %u pairs were set up within %d s", run.ready, run.load->pairs,
                 (int)(STALL / SECOND));
        }
    }
    run.measurement->setUp = now() - started;
}

/// Lets messages fall due at the fixed rate up to `time`.
static void pace(int64_t time) {
    const struct load *load = run.load;
    for (; burst_time(run.paceNext) <= time - run.paceStarted; run.paceNext++) {
        struct pair *pair = &run.pairs[run.paceNext % load->pairs];
        pair->due += load->burst;
        pump(pair);
    }
}

/// How long the loop may wait for input. At a fixed rate it spins, because waking up would be less exact than what is
/// measured; but a real-time process that spins is stopped by the kernel for a while each second, so that one sleeps
/// until the next message is due (its timers have no slack).
static int64_t patience(int64_t time) {
    const struct load *load = run.load;
    if (load->messagesPerSecond == 0) return 1000000;
    if (!run.isRealtime) return 0;
    int64_t wait = run.paceStarted + burst_time(run.paceNext) - time;
    return wait < 0 ? 0 : wait < 1000000 ? wait : 1000000;
}

static void run_until(int64_t end) {
    const struct load *load = run.load;
    uint64_t relayed = run.relayed;
    int64_t moved = now();
    for (int64_t time; (time = now()) < end;) {
        if (load->messagesPerSecond > 0) pace(time);
        if (load->everyTurn != NULL) load->everyTurn(time, run.isMeasured);
        loop_turn(patience(time));
        if (run.relayed != relayed) {
            relayed = run.relayed;
            moved = time;
        } else if (time - moved > STALL) {
            fail(EXIT_LOST, "no message was relayed for %d s", (int)(STALL / SECOND));
        }
    }
}

static bool is_drained(void) {
    for (uint32_t i = 0; i < run.load->pairs; i++) {
        const struct pair *pair = &run.pairs[i];
        if (pair->delivered != pair->sent) return false;
        if (run.load->dialect->acknowledges && pair->acknowledged != pair->sent) return false;
    }
    return true;
}

static void drain(void) {
    run.isSending = false;
    if (run.load->ended != NULL) run.load->ended();
    int64_t started = now();
    while (!is_drained()) {
        loop_turn(1000000);
        if (now() - started < STALL) continue;
        uint64_t lost = 0, unacknowledged = 0;
        for (uint32_t i = 0; i < run.load->pairs; i++) {
            lost += run.pairs[i].sent - run.pairs[i].delivered;
            unacknowledged += run.pairs[i].sent - run.pairs[i].acknowledged;
        }
        fail(EXIT_LOST, "%llu messages were lost, %llu never acknowledged", (unsigned long long)lost,
             run.load->dialect->acknowledges ? (unsigned long long)unacknowledged : 0);
    }
}

void pairs_run(const struct load *load, struct measurement *measurement) {
    *measurement = (struct measurement){0};
    run.load = load;
    run.measurement = measurement;
    run.isRealtime = sched_getscheduler(0) != SCHED_OTHER;
    run.pairs = calloc(load->pairs, sizeof *run.pairs);
    if (run.pairs == NULL) fail(EXIT_LOST, "out of memory");
    make_payload_template(load->payloadBytes);
    set_up();
    if (load->prepared != NULL) load->prepared();

    run.isSending = true;
    run.paceStarted = now();
    for (uint32_t i = 0; i < load->pairs; i++) pump(&run.pairs[i]);
    run_until(now() + load->warmup);

    measurement->before = usage_of_all(load->processes, load->processCount);
    measurement->ownBefore = usage_of(getpid());
    loop_longest_turn();
    uint64_t relayedBefore = run.relayed;
    int64_t started = now();
    run.isMeasured = true;
    run_until(started + load->duration);
    run.isMeasured = false;
    measurement->messages = run.relayed - relayedBefore;
    measurement->seconds = (double)(now() - started) / 1e9;
    measurement->longestTurn = loop_longest_turn();
    measurement->after = usage_of_all(load->processes, load->processCount);
    measurement->ownAfter = usage_of(getpid());

    drain();
    if (measurement->messages == 0) fail(EXIT_LOST, "no message was relayed in the measured window");
}

// MARK: The report

void measurement_print_json(const struct load *load, const struct measurement *measurement) {
    const struct usage *before = &measurement->before, *after = &measurement->after;
    printf("\"pairs\": %u, \"inFlight\": %u, \"payloadBytes\": %zu, \"offeredPerSecond\": ", load->pairs,
           load->inFlight, load->payloadBytes);
    if (load->messagesPerSecond > 0) printf("%.0f", load->messagesPerSecond);
    else printf("null");
    printf(", \"seconds\": %.3f, \"messages\": %llu, \"messagesPerSecond\": %.0f, \"setUpMilliseconds\": %.1f",
           measurement->seconds, (unsigned long long)measurement->messages,
           (double)measurement->messages / measurement->seconds, (double)measurement->setUp / 1e6);
    printf(", \"latencyMicroseconds\": ");
    histogram_print_json(&measurement->latency);
    if (load->processCount > 0) {
        double cpu = (double)(after->cpu - before->cpu), user = (double)(after->user - before->user);
        double system = (double)(after->system - before->system), both = user + system > 0 ? user + system : 1;
        double perMessage = cpu / 1e3 / (double)measurement->messages;
        printf(", \"relay\": {\"cpuMicrosecondsPerMessage\": %.4f, \"userMicrosecondsPerMessage\": %.4f, "
               "\"systemMicrosecondsPerMessage\": %.4f, \"coresUsed\": %.3f, \"waitedForCoreMilliseconds\": %.1f, "
               "\"residentKiB\": %lld, \"peakResidentKiB\": %lld}",
               perMessage, perMessage * user / both, perMessage * system / both, cpu / 1e9 / measurement->seconds,
               (double)(after->waited - before->waited) / 1e6, (long long)after->residentKiB,
               (long long)after->peakResidentKiB);
    }
    printf(", \"generator\": {\"coresUsed\": %.3f, \"waitedForCoreMilliseconds\": %.1f, "
           "\"longestTurnMicroseconds\": %.1f}",
           (double)(measurement->ownAfter.cpu - measurement->ownBefore.cpu) / 1e9 / measurement->seconds,
           (double)(measurement->ownAfter.waited - measurement->ownBefore.waited) / 1e6,
           (double)measurement->longestTurn / 1e3);
}
