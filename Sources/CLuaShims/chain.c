// Chains: several hooks behind one function reference.
//
// Handshake, message, connect, request and reload hooks run one after another in the call's own coroutine; an error
// ends the round. Open, close and event hooks must not hurt each other: each runs in a coroutine of its own, its
// failure is reported and the next one runs. All of them may sleep.
#include "engine.h"

/// Hooks of one call that may be stopped by their budget before the rest of them are left out: each gets a burst.
#define RL_RESTARTS 3
/// Units that running one more hook is charged: a coroutine is made, and it may run 1000 instructions before its own
/// count brings it to the clock.
#define RL_HOOK_COST 2000

// Upvalues of a chain: the table of its functions, its point, its name.
#define RL_CHAIN_FUNCTIONS lua_upvalueindex(1)
#define RL_CHAIN_POINT lua_upvalueindex(2)
#define RL_CHAIN_NAME lua_upvalueindex(3)

/// Stack: a1 … an → a1 … an f a1 … an; answers false, with nothing pushed, behind the last function
static bool push_hook_mayraise(lua_State *L, int arguments, lua_Integer position) {
    luaL_checkstack(L, arguments + 5, "too many arguments");
    if (lua_rawgeti(L, RL_CHAIN_FUNCTIONS, position) == LUA_TNIL) {
        lua_pop(L, 1);
        return false;
    }
    for (int i = 1; i <= arguments; i++) lua_pushvalue(L, i);
    return true;
}

// MARK: In one coroutine

/// How many values the chain returns now, -1 where the next hook's turn has come. For connect and request the last one
/// is the hook.
/// Stack: a1 … an r1 r2 r3 → a1 … an (anything)
static int decide(lua_State *L, int arguments, lua_Integer position) {
    int first = arguments + 1;
    rl_call_kind point = (rl_call_kind)lua_tointeger(L, RL_CHAIN_POINT);
    if ((point == rl_call_connect || point == rl_call_request) && !lua_isnil(L, first)) {
        lua_rawgeti(L, RL_CHAIN_FUNCTIONS, position);
        return 4;
    }
    if (!lua_isboolean(L, first)) return -1;
    if (point == rl_call_handshake && !lua_toboolean(L, first)) return 3;
    if (point == rl_call_message && lua_toboolean(L, first)) {
        lua_settop(L, first);
        return 1;
    }
    return -1;
}

static int after_hook(lua_State *L, int status, lua_KContext position);

static int run_in_order_mayraise(lua_State *L, int arguments, lua_Integer position) {
    for (; push_hook_mayraise(L, arguments, position); position++) {
        lua_callk(L, arguments, 3, (lua_KContext)position, after_hook);
        int results = decide(L, arguments, position);
        if (results >= 0) return results;
        lua_settop(L, arguments);
    }
    if (lua_tointeger(L, RL_CHAIN_POINT) != rl_call_message) return 0;
    lua_pushboolean(L, false);
    return 1;
}

/// The hook at `position` has slept and is done.   Stack: a1 … an r1 r2 r3
static int after_hook(lua_State *L, int status, lua_KContext position) {
    (void)status;
    int arguments = lua_gettop(L) - 3;
    int results = decide(L, arguments, (lua_Integer)position);
    if (results >= 0) return results;
    lua_settop(L, arguments);
    return run_in_order_mayraise(L, arguments, (lua_Integer)position + 1);
}

static int run_sequence(lua_State *L) { return run_in_order_mayraise(L, lua_gettop(L), 1); }

// MARK: Each in its own

/// Reports a hook that failed.   Stack: a1 … an child
static void report(lua_State *L, rl_engine *e, lua_State *child, int status) {
    rl_describe_failure(e, child, status);
    size_t count;
    const char *name = lua_tolstring(L, RL_CHAIN_NAME, &count);
    e->outcome.hook = rl_text(name, count);
    e->outcome.call = e->call->id;
    e->host.unattended_failure(e->host.context, &e->outcome);
}

static int after_sleep(lua_State *L, int status, lua_KContext position);

/// Resumes the hook's coroutine. Answers false where the chain has to yield, too: the hook sleeps.
/// Stack: a1 … an child
static bool run_child_mayraise(lua_State *L, rl_engine *e, lua_State *child, int arguments) {
    lua_State *active = e->active;
    // Who sleeps makes all of its callers yield, up to the engine. One that cannot: nobody may sleep.
    e->active = active == L && lua_isyieldable(L) ? child : NULL;
    int results = 0;
    int status = rl_resume(e, child, L, arguments, &results);
    e->active = active;
    bool isBottom = e->call->thread == L
        && (e->call->kind == rl_call_open || e->call->kind == rl_call_close || e->call->kind == rl_call_event);
    if (e->stopped != rl_code_none) {
        // A hook of relay.emit ends with the call that emits. One that the relay called ends alone.
        if (!isBottom) return rl_leave_mayraise(L), true;
        report(L, e, child, status);
        if (++e->restarts > RL_RESTARTS) return rl_leave_mayraise(L), true;
        rl_restart_burst(e);
        return true;
    }
    if (status == LUA_YIELD && e->sleeping) return false;
    if (status != LUA_OK) {
        report(L, e, child, status);
        rl_close_thread(e, child);
        if (e->stopped != rl_code_none && !isBottom) rl_leave_mayraise(L);
        if (e->stopped != rl_code_none && ++e->restarts > RL_RESTARTS) rl_leave_mayraise(L);
        if (e->stopped != rl_code_none) rl_restart_burst(e);
    }
    return true;
}

static int run_apart_mayraise(lua_State *L, int arguments, lua_Integer position) {
    rl_engine *e = rl_engine_of(L);
    while (push_hook_mayraise(L, arguments, position)) {
        rl_tick(L, RL_HOOK_COST);
        lua_State *child = lua_newthread(L);  // Stack: a1 … an f a1 … an child
        rl_mark_engine_thread(child);
        lua_insert(L, arguments + 1);         // Stack: a1 … an child f a1 … an
        if (!lua_checkstack(child, arguments + 1)) return luaL_error(L, "too many arguments");
        lua_xmove(L, child, arguments + 1);   // Stack: a1 … an child
        if (!run_child_mayraise(L, e, child, arguments)) {
            return lua_yieldk(L, 0, (lua_KContext)position, after_sleep);
        }
        lua_settop(L, arguments);
        position++;
    }
    return 0;
}

/// The hook at `position` has slept.   Stack: a1 … an child
static int after_sleep(lua_State *L, int status, lua_KContext position) {
    (void)status;
    rl_engine *e = rl_engine_of(L);
    lua_State *child = lua_tothread(L, -1);
    if (!run_child_mayraise(L, e, child, 0)) return lua_yieldk(L, 0, position, after_sleep);
    int arguments = lua_gettop(L) - 1;
    lua_settop(L, arguments);
    return run_apart_mayraise(L, arguments, (lua_Integer)position + 1);
}

static int run_apart(lua_State *L) { return run_apart_mayraise(L, lua_gettop(L), 1); }

// MARK: Making one

typedef struct chain_request {
    rl_call_kind point;
    rl_bytes name;
    const int32_t *functions;
    size_t count;
    int reference;
} chain_request;

// Stack: request (light userdata) → (empty)
static int make_chain(lua_State *L) {
    chain_request *request = lua_touserdata(L, 1);
    bool apart = request->point == rl_call_open || request->point == rl_call_close || request->point == rl_call_event;
    lua_createtable(L, (int)request->count, 0);
    for (size_t i = 0; i < request->count; i++) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, request->functions[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushinteger(L, request->point);
    lua_pushlstring(L, request->name.start, request->name.count);
    lua_pushcclosure(L, apart ? run_apart : run_sequence, 3);
    request->reference = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

int32_t rl_chain(rl_engine *e, rl_call_kind point, rl_bytes name, const int32_t *functions, size_t count) {
    RL_ENTER(e);
    chain_request request = {point, name, functions, count, 0};
    lua_pushcfunction(e->main, make_chain);
    lua_pushlightuserdata(e->main, &request);
    if (lua_pcall(e->main, 1, 0, 0) != LUA_OK) {
        lua_pop(e->main, 1);
        request.reference = 0;
    }
    RL_LEAVE(e);
    return request.reference;
}
