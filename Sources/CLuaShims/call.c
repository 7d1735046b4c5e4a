// Calls: a request's arguments go onto a coroutine's stack, the function runs, its result becomes an outcome.
//
// All of it happens inside the one lua_resume: whatever raises, the outcome is a value by the time Swift sees it.
#include <string.h>

#include "engine.h"

// MARK: Inside the coroutine

/// Stack: … → … a1 a2 …, answering how many
static int push_arguments_mayraise(lua_State *L, rl_engine *e) {
    const rl_request *r = &e->request;
    switch (r->kind) {
        case rl_call_instruction:
            rl_push_connection_mayraise(L, r->connection);
            return 1 + (r->bytes.start == NULL ? 0 : rl_push_parameters_mayraise(L, r->bytes.start, r->bytes.count));
        case rl_call_handshake:
            rl_push_request_mayraise(L, r->connection);
            return 1;
        case rl_call_open:
            rl_push_connection_mayraise(L, r->connection);
            rl_push_request_mayraise(L, r->connection);
            return 2;
        case rl_call_message:
            rl_push_connection_mayraise(L, r->connection);
            lua_pushlstring(L, r->bytes.start, r->bytes.count);
            lua_pushstring(L, r->number != 0 ? "text" : "binary");
            return 3;
        case rl_call_connect:
            rl_push_connection_mayraise(L, r->connection);
            rl_push_server_mayraise(L, r->server);
            lua_pushinteger(L, r->number);
            rl_push_request_mayraise(L, r->connection);
            return 4;
        case rl_call_request:
            rl_push_http_request_mayraise(L, e);
            return 1;
        case rl_call_close:
            rl_push_connection_mayraise(L, r->connection);
            lua_pushinteger(L, r->number);
            lua_pushlstring(L, r->bytes.start, r->bytes.count);
            return 3;
        case rl_call_reload:
            lua_pushinteger(L, r->number);
            return 1;
        case rl_call_event:
            rl_json_decode(L, r->bytes.start, r->bytes.count);
            return 1;
        case rl_call_evaluate:
            rl_push_connection_mayraise(L, r->connection);
            return 1;
        case rl_call_timer:
            return 0;
    }
    return 0;
}

/// A handler may return a line for people and a table of facts: the facts are the result then, the line goes beside it.
/// Stack: r1 r2
static void encode_instruction_mayraise(lua_State *L, rl_engine *e) {
    bool hasLine = lua_type(L, 1) == LUA_TSTRING && lua_type(L, 2) == LUA_TTABLE;
    rl_encode_result_mayraise(L, e, hasLine ? 2 : 1);
    if (!hasLine) return;
    size_t count;
    const char *line = lua_tolstring(L, 1, &count);
    if (!rl_is_utf8(line, count)) luaL_error(L, "the line beside the result is not valid UTF-8");
    if (count > sizeof(e->message)) {
        count = sizeof(e->message);
        while (((unsigned char)line[count] & 0xC0) == 0x80) count--;  // Cut between characters.
    }
    memcpy(e->message, line, count);
    e->outcome.line_text = rl_text(e->message, count);
}

/// Stack: r1 [r2 r3 f] → (anything)
static int finish(lua_State *L, int status, lua_KContext context) {
    (void)status;
    (void)context;
    rl_engine *e = rl_engine_of(L);
    if (e->stopped != rl_code_none) return 0;
    memset(&e->outcome, 0, offsetof(rl_outcome, call));
    if (e->call->kind == rl_call_handshake && lua_isboolean(L, 1) && !lua_toboolean(L, 1)) {
        rl_read_refusal_mayraise(L, e);
    } else if (e->call->kind == rl_call_connect) {
        rl_read_connect_mayraise(L, e);
    } else if (e->call->kind == rl_call_request) {
        rl_read_answer_mayraise(L);
    } else if (e->call->wants_result && e->call->kind == rl_call_instruction) {
        encode_instruction_mayraise(L, e);
    } else if (e->call->wants_result) {
        rl_encode_result_mayraise(L, e, 1);
    }
    return 0;
}

/// How many values of a call's function are looked at.
static int results_of(rl_call_kind kind) {
    switch (kind) {
        case rl_call_instruction: return 2;
        case rl_call_handshake: return 3;
        case rl_call_connect:
        case rl_call_request: return 4;
        default: return 1;
    }
}

// The bottom of every call's coroutine.   Stack: (empty), or the timer's function
static int enter(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    if (e->request.kind == rl_call_evaluate) {
        static const char name[] = "=eval";
        // An expression first, then a chunk of statements.
        lua_pushliteral(L, "return ");
        lua_pushlstring(L, e->request.bytes.start, e->request.bytes.count);
        lua_concat(L, 2);  // Stack: text
        size_t count;
        const char *text = lua_tolstring(L, 1, &count);
        if (rl_load_text(L, text, count, name) != LUA_OK) {
            lua_pop(L, 1);
            int status = rl_load_text(L, text + 7, count - 7, name);
            if (status == LUA_ERRSYNTAX) e->raising = rl_code_compile;
            if (status != LUA_OK) return lua_error(L);
        }
        lua_remove(L, 1);  // Stack: chunk
    } else if (e->request.kind != rl_call_timer) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->request.function);
    }
    int arguments = push_arguments_mayraise(L, e);  // Stack: f a1 a2 …
    lua_callk(L, arguments, results_of(e->request.kind), 0, finish);
    return finish(L, LUA_OK, 0);
}

// MARK: Around the coroutine

/// Runs, or goes on with, a call whose thread has its function and arguments on the stack, and settles it: the thread
/// is idle, asleep or gone afterwards.
const rl_outcome *rl_run(rl_engine *e, rl_call_state *call, int arguments) {
    rl_begin(e, call);
    int results = 0;
    int status = rl_resume(e, call->thread, e->main, arguments, &results);
    bool reusable = true;
    if (e->stopped != rl_code_none) {
        rl_describe_failure(e, call->thread, status);
        reusable = false;
    } else if (status == LUA_YIELD && e->sleeping) {
        if (call->deadline == 0) call->deadline = rl_now() + e->budgets.call_nanoseconds;
        memset(&e->outcome, 0, sizeof(e->outcome));
        e->outcome.status = rl_status_suspended;
        e->outcome.call = call->id;
        rl_end(e);
        return &e->outcome;
    } else if (status == LUA_OK) {
        lua_settop(call->thread, 0);
    } else {
        rl_describe_failure(e, call->thread, status);
        // Its pending __close variables still run, under what is left of the budget.
        rl_close_thread(e, call->thread);
        reusable = e->stopped == rl_code_none && status != LUA_YIELD;
        lua_settop(call->thread, 0);
    }
    e->outcome.call = call->id;
    rl_end(e);
    rl_return_call(e, call, reusable);
    return &e->outcome;
}

const rl_outcome *rl_call(rl_engine *e, const rl_request *request) {
    RL_ENTER(e);
    rl_call_state *call = rl_take_call(e);
    if (call == NULL) {
        rl_fail(e, rl_code_memory, "not enough memory for another call (scriptMemory)");
        e->outcome.call = request->call;
        return &e->outcome;
    }
    call->kind = request->kind;
    call->id = request->call;
    call->wants_result = request->wants_result;
    e->request = *request;
    lua_pushcfunction(call->thread, enter);
    const rl_outcome *outcome = rl_run(e, call, 0);
    RL_LEAVE(e);
    return outcome;
}

/// Ends a call whose time was over before its sleep was.
static const rl_outcome *end_sleeper(rl_engine *e, rl_call_state *call) {
    rl_begin(e, call);
    rl_stop_because(call->thread, rl_code_budget, "budget exceeded: took more than %.6g s in all (callTime)",
                    (double)e->budgets.call_nanoseconds / 1e9);
    rl_describe_failure(e, call->thread, LUA_YIELD);
    e->outcome.call = call->id;
    rl_end(e);
    rl_return_call(e, call, false);
    return &e->outcome;
}

const rl_outcome *rl_wake(rl_engine *e, rl_call_state *call) {
    bool isUnattended = call->kind == rl_call_timer;
    bool isOver = call->is_overdue || rl_now() >= call->deadline;
    const rl_outcome *ended = isOver ? end_sleeper(e, call) : rl_run(e, call, 0);
    if (ended->status == rl_status_suspended) return NULL;
    if (!isUnattended) return ended;
    // A timer's function that slept: no caller waits for it.
    if (ended->status == rl_status_failed) e->host.unattended_failure(e->host.context, ended);
    return NULL;
}

/// Runs a timer's own function, or wakes the call that slept. A one-shot timer is forgotten first: what it runs may
/// make a new one.
const rl_outcome *rl_timer_fired(rl_engine *e, uint64_t timer) {
    RL_ENTER(e);
    lua_State *L = e->main;
    rl_push_slot(L, e, rl_slot_timers);
    int type = lua_rawgeti(L, -1, (lua_Integer)timer);  // Stack: timers (function | repeating | sleeper | nil)
    if (type == LUA_TLIGHTUSERDATA) {
        rl_call_state *call = lua_touserdata(L, -1);
        rl_forget_timer(L, timer);
        lua_pop(L, 2);
        const rl_outcome *ended = rl_wake(e, call);
        RL_LEAVE(e);
        return ended;
    }
    if (type == LUA_TTABLE) {
        lua_rawgeti(L, -1, 1);  // A timer of relay.every is kept as { function }.
        lua_replace(L, -2);
    } else if (type == LUA_TFUNCTION) {
        rl_forget_timer(L, timer);
    } else {
        lua_pop(L, 2);
        e->host.cancel(e->host.context, timer);
        RL_LEAVE(e);
        return NULL;
    }
    rl_call_state *call = rl_take_call(e);  // Stack: timers function
    if (call == NULL) {
        lua_pop(L, 2);
        rl_fail(e, rl_code_memory, "not enough memory for a timer's call (scriptMemory)");
        e->host.unattended_failure(e->host.context, &e->outcome);
    } else {
        call->kind = rl_call_timer;
        e->request.kind = rl_call_timer;
        lua_pushcfunction(call->thread, enter);
        lua_xmove(L, call->thread, 1);
        lua_pop(L, 1);
        const rl_outcome *outcome = rl_run(e, call, 1);
        if (outcome->status == rl_status_failed) e->host.unattended_failure(e->host.context, outcome);
    }
    RL_LEAVE(e);
    return NULL;
}
