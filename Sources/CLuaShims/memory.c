// The capped allocator, and what it knows that the count hook cannot see.
//
// A virtual machine instruction takes nanoseconds, unless it moves or compares megabytes: `a .. b`, `a == b`, a table
// that doubles. 1000 of those between two looks at the clock would hold the loop for seconds. So growth of the state
// asks for an early look, and while large strings live the clock is looked at more often.
#include <stdlib.h>

#include "engine.h"

/// Copying so much takes 0.1 to 0.3 ms, then the clock is due.
#define RL_GROWTH_BYTES ((size_t)1 << 20)
/// Comparing two strings of this size takes 10 to 30 µs: 333 of them, all that 1000 instructions can do, stay below a
/// burst.
#define RL_LARGE_BYTES ((size_t)256 << 10)
#define RL_HUGE_BYTES ((size_t)4 << 20)

/// The hook period that the living large strings ask for: 1000 instructions of ordinary work are 2 to 10 µs. Measured
/// on a loop of 200 million additions, best of 18 runs: against a period of 10 000, which costs nothing, 1000 costs
/// 1 %, 100 costs 9 %, 10 costs 84 %.
static int period_for(const rl_engine *e) {
    size_t largest = e->large_overflow ? RL_HUGE_BYTES : 0;
    for (int i = 0; i < e->large_count; i++) {
        if (e->large[i].bytes > largest) largest = e->large[i].bytes;
    }
    return largest >= RL_HUGE_BYTES ? 10 : largest >= RL_LARGE_BYTES ? 100 : 1000;
}

static void remember_large(rl_engine *e, void *block, size_t bytes) {
    if (e->large_count == RL_LARGE_STRINGS) {
        e->large_overflow = true;
    } else {
        e->large[e->large_count].block = block;
        e->large[e->large_count].bytes = bytes;
        e->large_count++;
    }
    e->period = period_for(e);
}

static void forget_large(rl_engine *e, const void *block) {
    for (int i = 0; i < e->large_count; i++) {
        if (e->large[i].block != block) continue;
        e->large[i] = e->large[--e->large_count];
        // Once the table has room for the cap's worth of strings again, none can be missing from it.
        if (e->large_count == 0 || e->memory_used < RL_LARGE_STRINGS * RL_LARGE_BYTES) e->large_overflow = false;
        e->period = period_for(e);
        return;
    }
}

/// Makes the running thread look at the clock at its next instruction, or at the next rl_tick. The allocator runs in
/// the middle of anything, so it only does what lua_sethook allows a signal handler to do.
static void hurry(rl_engine *e) {
    e->growth = 0;
    e->ticks_left = 0;
    if (e->running != NULL) rl_arm(e, e->running, 1);
}

static bool may_grow(rl_engine *e, size_t growth) {
    if (e->uncapped > 0) return true;
    if (e->fail_countdown > 0 && --e->fail_countdown == 0) e->failed_on_purpose = true;
    if (e->failed_on_purpose) return false;
    return growth <= e->budgets.memory_bytes && e->memory_used <= e->budgets.memory_bytes - growth;
}

/// lua_Alloc. `old_size` is the kind of object where `block` is NULL.
void *rl_allocate(void *context, void *block, size_t old_size, size_t new_size) {
    rl_engine *e = context;
    size_t held = block != NULL ? old_size : 0;
    if (new_size == 0) {
        if (held >= RL_LARGE_BYTES) forget_large(e, block);
        e->memory_used -= held;
        free(block);
        return NULL;
    }
    if (new_size > held) {
        size_t growth = new_size - held;
        if (!may_grow(e, growth)) {
            // Lua collects all garbage and asks once more; the second refusal is an error in the script.
            if (++e->refusals >= 2) e->memory_failed = true;
            hurry(e);
            return NULL;
        }
        e->growth += growth;
        if (e->growth >= RL_GROWTH_BYTES) hurry(e);
    }
    void *result = realloc(block, new_size);
    if (result == NULL) return new_size <= held ? block : NULL;  // Lua counts on shrinking, so that never fails.
    e->memory_used += new_size - held;  // Unsigned, so this also subtracts.
    e->refusals = 0;
    if (block == NULL && old_size == LUA_TSTRING && new_size >= RL_LARGE_BYTES) {
        remember_large(e, result, new_size);
        hurry(e);
    }
    return result;
}
