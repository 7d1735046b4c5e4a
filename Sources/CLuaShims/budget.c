// Time: the count hook, the ticks of C work, and how a call that has used up its share is ended.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine.h"

/// Units of C work (1 to 5 ns each) between two looks at the clock: at most 0.25 ms.
#define RL_TICKS 50000

int64_t rl_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t rl_thread_time(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t later(int64_t time, int64_t nanoseconds) {
    return nanoseconds > INT64_MAX - time ? INT64_MAX : time + nanoseconds;
}

// MARK: The running call

/// Most calls end before their first look at the clock, so none is taken at the start: a call's time begins with the
/// first look, at most 1000 instructions or RL_TICKS late.
void rl_begin(rl_engine *e, rl_call_state *call) {
    e->uncapped = 0;
    e->call = call;
    e->running = e->active = call->thread;
    e->burst_deadline = 0;
    e->call_deadline = call->deadline;
    e->ticks_left = RL_TICKS;
    e->memory_failed = false;
    e->refusals = 0;
    e->restarts = 0;
    e->stopped = rl_code_none;
    e->raising = rl_code_none;
    e->sleeping = false;
}

void rl_end(rl_engine *e) {
    e->call = NULL;
    e->running = e->active = NULL;
}

void rl_restart_burst(rl_engine *e) {
    e->stopped = rl_code_none;
    e->burst_deadline = 0;
    e->ticks_left = RL_TICKS;
    e->memory_failed = false;
}

static int64_t burst_nanoseconds(const rl_engine *e) {
    return e->phase != rl_phase_serving ? e->budgets.load_nanoseconds : e->budgets.burst_nanoseconds;
}

static void begin_burst(rl_engine *e, int64_t now) {
    bool loads = e->phase != rl_phase_serving;
    e->burst_deadline = later(now, burst_nanoseconds(e));
    e->burst_start = rl_thread_time();
    if (e->call_deadline == 0) {
        e->call_deadline = loads ? INT64_MAX : later(now, e->budgets.call_nanoseconds);
        if (e->call != NULL) e->call->deadline = e->call_deadline;
    }
}

/// The burst is over by the wall clock. Time in which the kernel ran somebody else is not the script's fault: what it
/// has not used up is given to it.
static bool burst_is_over(rl_engine *e, int64_t now, int64_t ahead) {
    int64_t used = later(rl_thread_time() - e->burst_start, ahead);
    if (used >= burst_nanoseconds(e)) return true;
    e->burst_deadline = later(now, burst_nanoseconds(e) - used);
    return false;
}

void rl_excuse(rl_engine *e, int64_t nanoseconds) {
    if (e->burst_deadline != 0) e->burst_start += nanoseconds;
}

static void stop_for_time(rl_engine *e, lua_State *L, int64_t end) {
    if (e->memory_failed) {
        rl_stop_because(L, rl_code_memory, "memory exceeded: the app's state holds its limit of %zu bytes "
                        "(scriptMemory), and the script ran on", e->budgets.memory_bytes);
    } else if (e->phase != rl_phase_serving) {
        rl_stop_because(L, rl_code_budget, "budget exceeded: did not load within %.6g ms",
                        (double)e->budgets.load_nanoseconds / 1e6);
    } else if (end >= e->call_deadline) {
        rl_stop_because(L, rl_code_budget, "budget exceeded: ran for more than %.6g s in all (callTime)",
                        (double)e->budgets.call_nanoseconds / 1e9);
    } else {
        rl_stop_because(L, rl_code_budget, "budget exceeded: ran for more than %.6g ms without yielding (burst)",
                        (double)e->budgets.burst_nanoseconds / 1e6);
    }
}

/// Reads the clock; `ahead` nanoseconds of work are about to be done, which counts as if they were.
static void look_at_clock(rl_engine *e, lua_State *L, int64_t ahead) {
    int64_t now = rl_now();
    e->ticks_left = RL_TICKS;
    if (e->burst_deadline == 0) begin_burst(e, now);
    int64_t end = later(now, ahead);
    bool over = end >= e->burst_deadline && burst_is_over(e, now, ahead);
    if (over || end >= e->call_deadline) stop_for_time(e, L, end);
}

// MARK: Stopping

/// Finds the innermost Lua function of a thread: the place to name.
static void where(lua_State *L, char *text, size_t size) {
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline <= 0) continue;
        snprintf(text, size, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
    text[0] = 0;
}

void rl_stop_because(lua_State *L, rl_code code, const char *format, ...) {
    rl_engine *e = rl_engine_of(L);
    char place[LUA_IDSIZE + 32], text[256];
    where(L, place, sizeof(place));
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    snprintf(e->stop_message, sizeof(e->stop_message), "%s%s", place, text);
    e->stopped = code;
    e->ticks_left = 0;
    rl_arm(e, L, 1);
}

void rl_arm(rl_engine *e, lua_State *thread, int period) {
    (void)e;
    lua_sethook(thread, rl_hook, LUA_MASKCOUNT, period);
}

/// Where a yield is possible nothing of the script runs any more. Where it is not (inside a metamethod, a comparator, a
/// callback of gsub) an error has to do; a pcall may catch it, and meets the hook again at its next instruction.
int rl_leave_mayraise(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_arm(e, L, 1);
    if (lua_isyieldable(L)) return lua_yield(L, 0);
    lua_pushstring(L, e->stop_message);
    return lua_error(L);
}

/// The count hook. It never calls code of the script: hooks are off while a hook runs.
void rl_hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    rl_engine *e = rl_engine_of(L);
    if (e->call == NULL) return;
    if (e->stopped == rl_code_none) look_at_clock(e, L, 0);
    if (e->stopped == rl_code_none) {
        if (rl_has_hooks_off(L)) rl_set_hooks_off(L, false);  // A pcall has caught it, and the hook runs again.
        if (lua_gethookcount(L) != e->period) rl_arm(e, L, e->period);
        return;
    }
    rl_arm(e, L, 1);
    if (lua_isyieldable(L)) {
        lua_yield(L, 0);  // In a hook this returns, and takes effect when the hook does.
        return;
    }
    rl_set_hooks_off(L, true);
    lua_pushstring(L, e->stop_message);
    lua_error(L);
}

void rl_tick(lua_State *L, size_t cost) {
    rl_engine *e = rl_engine_of(L);
    if (cost < e->ticks_left) {
        e->ticks_left -= cost;
        return;
    }
    if (e->call == NULL) return;
    // Work announced beforehand has not shown on the clock yet. One unit is at least a nanosecond.
    if (e->stopped == rl_code_none) look_at_clock(e, L, cost > RL_TICKS ? (int64_t)(cost & INT64_MAX) : 0);
    if (e->stopped != rl_code_none) rl_leave_mayraise(L);
}
