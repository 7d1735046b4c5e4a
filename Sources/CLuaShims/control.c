// What scripts get of coroutines and xpcall: Lua's functions, with the engine's stop passed on.
//
// A hook that yields in a script-made coroutine only returns to the script that resumed it. So whoever resumes looks
// at `stopped` first and leaves at once.
#include "engine.h"

/// The coroutine at index 1, one that a script has made.
static lua_State *check_coroutine_mayraise(lua_State *L) {
    lua_State *thread = lua_tothread(L, 1);
    if (thread == NULL) luaL_typeerror(L, 1, "coroutine");
    return thread;
}

/// Resumes `thread` with the topmost `arguments` values.
/// Stack: … a1 a2 …  →  … r1 r2 …, answering how many; or … message, answering -1
static int resume_mayraise(lua_State *L, lua_State *thread, int arguments) {
    rl_engine *e = rl_engine_of(L);
    if (rl_is_engine_thread(thread)) {
        lua_pushliteral(L, "cannot resume a handler's own coroutine");
        return -1;
    }
    if (!lua_checkstack(thread, arguments)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, thread, arguments);
    int results = 0;
    int status = rl_resume(e, thread, L, arguments, &results);
    if (e->stopped != rl_code_none) return rl_leave_mayraise(L), -1;
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(thread, L, 1);
        return -1;
    }
    if (!lua_checkstack(L, results + 1)) {
        lua_pop(thread, results);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    lua_xmove(thread, L, results);
    return results;
}

// coroutine.create(f)
static int create(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    rl_tick(L, 200);
    lua_State *thread = lua_newthread(L);
    lua_pushvalue(L, 1);  // Stack: f thread f
    lua_xmove(L, thread, 1);
    return 1;
}

// coroutine.resume(co, ...)
static int resume(lua_State *L) {
    lua_State *thread = check_coroutine_mayraise(L);
    int results = resume_mayraise(L, thread, lua_gettop(L) - 1);
    bool failed = results < 0;
    if (failed) results = 1;
    lua_pushboolean(L, !failed);
    lua_insert(L, -(results + 1));  // Stack: co ok r1 r2 …
    return results + 1;
}

// The function that coroutine.wrap made. Upvalue 1: the coroutine.
static int call_wrapped(lua_State *L) {
    lua_State *thread = lua_tothread(L, lua_upvalueindex(1));
    int results = resume_mayraise(L, thread, lua_gettop(L));
    if (results >= 0) return results;
    // Stack: … message
    rl_engine *e = rl_engine_of(L);
    int status = lua_status(thread);
    if (status != LUA_OK && status != LUA_YIELD) {  // It failed while it ran: its pending __close see the error.
        lua_xmove(L, thread, 1);
        rl_close_thread(e, thread);
        if (e->stopped != rl_code_none) return rl_leave_mayraise(L);
        lua_xmove(thread, L, 1);
    }
    if (lua_type(L, -1) == LUA_TSTRING && status != LUA_ERRMEM) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

// coroutine.wrap(f)
static int wrap(lua_State *L) {
    create(L);
    lua_pushcclosure(L, call_wrapped, 1);
    return 1;
}

// coroutine.yield(...)
static int yield(lua_State *L) {
    if (rl_is_engine_thread(L)) {
        return luaL_error(L, "attempt to yield from outside a coroutine (to wait, use relay.sleep)");
    }
    return lua_yield(L, lua_gettop(L));
}

typedef enum { co_running, co_suspended, co_normal, co_dead } co_state;

static co_state state_of(lua_State *L, lua_State *thread) {
    if (L == thread) return co_running;
    switch (lua_status(thread)) {
        case LUA_YIELD: return co_suspended;
        case LUA_OK: {
            lua_Debug ar;
            if (lua_getstack(thread, 0, &ar)) return co_normal;  // It has resumed another.
            return lua_gettop(thread) == 0 ? co_dead : co_suspended;
        }
        default: return co_dead;
    }
}

static const char *const state_names[] = {"running", "suspended", "normal", "dead"};

// coroutine.status(co)
static int status(lua_State *L) {
    lua_pushstring(L, state_names[state_of(L, check_coroutine_mayraise(L))]);
    return 1;
}

// coroutine.isyieldable([co])
static int is_yieldable(lua_State *L) {
    lua_State *thread = lua_isnone(L, 1) ? L : check_coroutine_mayraise(L);
    lua_pushboolean(L, !rl_is_engine_thread(thread) && lua_isyieldable(thread));
    return 1;
}

// coroutine.running(): the coroutine, and whether it is a handler's own.
static int running(lua_State *L) {
    lua_pushthread(L);
    lua_pushboolean(L, rl_is_engine_thread(L));
    return 2;
}

// coroutine.close(co)
static int close(lua_State *L) {
    lua_State *thread = check_coroutine_mayraise(L);
    rl_engine *e = rl_engine_of(L);
    co_state state = state_of(L, thread);
    if (rl_is_engine_thread(thread)) return luaL_error(L, "cannot close a handler's own coroutine");
    if (state != co_suspended && state != co_dead) {
        return luaL_error(L, "cannot close a %s coroutine", state_names[state]);
    }
    if (rl_has_hooks_off(thread)) return luaL_error(L, "cannot close a coroutine that was stopped");
    bool closed = rl_close_thread(e, thread);
    if (e->stopped != rl_code_none) return rl_leave_mayraise(L);
    if (!closed) return luaL_error(L, "too many nested calls of coroutine.close");
    // lua_resetthread leaves the error's object, and nothing where there was no error.
    if (lua_gettop(thread) == 0) {
        lua_pushboolean(L, true);
        return 1;
    }
    lua_pushboolean(L, false);
    lua_xmove(thread, L, 1);
    return 2;
}

/// The handler has answered, or raised.   Stack: … answer → … false answer
static int handled(lua_State *L, int status, lua_KContext context) {
    (void)status;
    (void)context;
    if (rl_engine_of(L)->stopped != rl_code_none) return rl_leave_mayraise(L);
    lua_pushboolean(L, false);
    lua_insert(L, -2);
    return 2;
}

/// Stack: f handler true r1 r2 … → the results behind index 2
static int finish_xpcall(lua_State *L, int status, lua_KContext context) {
    if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - 2;
    if (rl_engine_of(L)->stopped != rl_code_none) return rl_leave_mayraise(L);
    lua_pushvalue(L, 2);
    lua_insert(L, -2);  // Stack: f handler … handler message
    return handled(L, lua_pcallk(L, 1, 1, 0, context, handled), context);
}

// xpcall(f, handler, ...). The handler is called when the error has unwound, not by Lua's own slot for it: a coroutine
// that is closed while it stands inside of an xpcall keeps that slot in Lua 5.4.4 (lua_resetthread does not clear it),
// and an error in a __close would call whatever lies there. Scripts have no `debug` that could tell the difference.
static int xpcall(lua_State *L) {
    int arguments = lua_gettop(L) - 2;
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushboolean(L, true);
    lua_pushvalue(L, 1);     // Stack: f handler a1 a2 … true f
    lua_rotate(L, 3, 2);     // Stack: f handler true f a1 a2 …
    int result = lua_pcallk(L, arguments, LUA_MULTRET, 0, 0, finish_xpcall);
    return finish_xpcall(L, result, 0);
}

void rl_add_control_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"create", create},   {"resume", resume},           {"wrap", wrap},       {"yield", yield},
        {"status", status},   {"isyieldable", is_yieldable}, {"running", running}, {"close", close},
        {NULL, NULL},
    };
    luaL_newlib(L, functions);
    rl_push_readonly(L, "coroutine");
    lua_setfield(L, -2, "coroutine");  // Stack: … libs
    lua_pushcfunction(L, xpcall);
    lua_setfield(L, -2, "xpcall");
}
