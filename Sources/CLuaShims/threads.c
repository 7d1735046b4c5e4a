// The engine's coroutines: taken from a pool, run, closed.
#include <stdlib.h>

#include "engine.h"

/// Idle coroutines kept: each holds about 1 KiB. More are in use only while calls sleep.
#define RL_IDLE_CALLS 64
/// lua_resetthread of Lua 5.4.4 runs __close handlers with the thread's own count of C calls, not the closer's: closing
/// inside of closing would nest without limit. Each level may hold LUAI_MAXCCALLS frames of up to 2 KiB.
#define RL_CLOSE_DEPTH 8

// Stack: call (light userdata) → (empty)
static int new_thread(lua_State *L) {
    rl_call_state *call = lua_touserdata(L, 1);
    lua_State *thread = lua_newthread(L);
    rl_mark_engine_thread(thread);
    call->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
    call->thread = thread;
    return 0;
}

rl_call_state *rl_take_call(rl_engine *e) {
    rl_call_state *call = e->idle;
    if (call != NULL) {
        e->idle = call->next;
        e->idle_count--;
    } else if ((call = e->spare) != NULL) {
        e->spare = call->next;
    } else if ((call = calloc(1, sizeof(*call))) != NULL) {
        call->sibling = e->calls;
        e->calls = call;
    } else {
        return NULL;
    }
    call->next = NULL;
    call->deadline = 0;
    call->is_overdue = false;
    call->output_bytes = 0;
    call->id = 0;
    call->wants_result = false;
    if (call->thread != NULL) return call;
    lua_pushcfunction(e->main, new_thread);
    lua_pushlightuserdata(e->main, call);
    if (lua_pcall(e->main, 1, 0, 0) == LUA_OK) return call;
    lua_pop(e->main, 1);
    rl_return_call(e, call, false);
    return NULL;
}

void rl_return_call(rl_engine *e, rl_call_state *call, bool reusable) {
    if (reusable && e->idle_count < RL_IDLE_CALLS) {
        call->next = e->idle;
        e->idle = call;
        e->idle_count++;
        return;
    }
    if (call->thread != NULL) luaL_unref(e->main, LUA_REGISTRYINDEX, call->anchor);
    call->thread = NULL;
    call->next = e->spare;
    e->spare = call;
}

int rl_resume(rl_engine *e, lua_State *thread, lua_State *from, int arguments, int *results) {
    lua_State *previous = e->running;
    if (lua_gethookcount(thread) != e->period) rl_arm(e, thread, e->period);
    e->running = thread;
    int status = lua_resume(thread, from, arguments, results);
    e->running = previous;
    return status;
}

bool rl_close_thread(rl_engine *e, lua_State *thread) {
    if (e->close_depth == RL_CLOSE_DEPTH || rl_has_hooks_off(thread)) return false;
    lua_State *previous = e->running;
    if (lua_gethookcount(thread) != e->period) rl_arm(e, thread, e->period);
    e->running = thread;
    e->close_depth++;
    lua_resetthread(thread);
    e->close_depth--;
    e->running = previous;
    return true;
}
