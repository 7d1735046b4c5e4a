// An engine's life: a state with its cap and its hook, the libraries, the end.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

/// Only an error outside of every protected call gets here: a fault of the engine's own.
static int panic(lua_State *L) {
    const char *message = lua_tostring(L, -1);
    fprintf(stderr, "relayd: unprotected error in Lua: %s\n", message != NULL ? message : "(no text)");
    abort();
}

void rl_check_height(rl_engine *e, int height) {
    if (lua_gettop(e->main) == height) return;
    fprintf(stderr, "relayd: the Lua stack has %d values where it had %d\n", lua_gettop(e->main), height);
    abort();
}

// MARK: Opening

/// lua_resume makes these messages outside of every protected call, where a lack of memory would end the process. They
/// are short, so Lua keeps one of each: once they are anchored, making them allocates nothing.
static void anchor_messages_mayraise(lua_State *L) {
    static const char *const messages[] = {
        "cannot resume dead coroutine", "cannot resume non-suspended coroutine", "C stack overflow",
        "error in error handling",
    };
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        lua_pushstring(L, messages[i]);
        luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

// Stack: (empty)
static int open_engine(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    anchor_messages_mayraise(L);
    for (int i = 0; i < rl_slot_count; i++) {
        lua_newtable(L);
        e->slots[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    rl_open_connections_mayraise(L);
    rl_open_libraries(L);
    rl_add_control_mayraise(L);
    rl_add_relay_mayraise(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_libraries]);
    rl_make_globals(L);
    lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_globals]);
    return 0;
}

rl_engine *rl_engine_create(const rl_host *host, const rl_budgets *budgets) {
    rl_engine *e = calloc(1, sizeof(*e));
    if (e == NULL) return NULL;
    e->host = *host;
    e->budgets = *budgets;
    e->period = 1000;
    e->main = lua_newstate(rl_allocate, e);
    if (e->main == NULL) {
        free(e);
        return NULL;
    }
    *(rl_engine **)lua_getextraspace(e->main) = e;
    lua_atpanic(e->main, panic);
    // Every coroutine copies the hook of the thread that makes it: one that is made without never gets one.
    rl_arm(e, e->main, e->period);
    lua_pushcfunction(e->main, open_engine);
    if (lua_pcall(e->main, 0, 0, 0) != LUA_OK) {
        rl_engine_destroy(e);
        return NULL;
    }
    return e;
}

// MARK: Closing

static void *destroy(void *engine) {
    rl_engine *e = engine;
    lua_close(e->main);
    free(e->buffer);
    free(e->list.bytes);
    free(e->unit_timers);
    for (rl_call_state *call = e->calls, *next; call != NULL; call = next) {
        next = call->sibling;
        free(call);
    }
    free(e);
    return NULL;
}

/// Nothing of a script runs while the state closes: there are no finalizers, and suspended coroutines are freed as they
/// are. Freeing 64 MiB of small objects takes some 50 ms, which no loop should wait for.
void rl_engine_destroy(rl_engine *e) {
    pthread_t thread;
    pthread_attr_t attributes;
    bool isSmall = e->memory_used < (size_t)4 << 20;
    if (!isSmall && pthread_attr_init(&attributes) == 0) {
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        bool isStarted = pthread_create(&thread, &attributes, destroy, e) == 0;
        pthread_attr_destroy(&attributes);
        if (isStarted) return;
    }
    destroy(e);
}

// MARK: Settings

void rl_engine_set_context(rl_engine *e, void *context) { e->host.context = context; }

void rl_engine_set_budgets(rl_engine *e, const rl_budgets *budgets) { e->budgets = *budgets; }

size_t rl_engine_memory_bytes(const rl_engine *e) { return e->memory_used; }

void rl_engine_fail_allocation(rl_engine *e, size_t nth) {
    e->fail_countdown = nth;
    e->failed_on_purpose = false;
}

bool rl_engine_allocation_failed(const rl_engine *e) { return e->failed_on_purpose; }
