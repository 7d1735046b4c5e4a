// From a failed coroutine to what its author needs: a code, a sentence, file and line, the way there.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

typedef struct description {
    rl_engine *engine;
    lua_State *failed;
    int status;
} description;

static void set_message(rl_engine *e, const char *text, size_t count) {
    if (count > sizeof(e->message)) count = sizeof(e->message);
    memcpy(e->message, text, count);
    e->outcome.text = rl_text(e->message, count);
}

/// Splits `file:line: ` off the front of the message, and keeps both.
static void find_place(rl_engine *e) {
    const char *text = e->outcome.text.start;
    size_t count = e->outcome.text.count;
    for (size_t i = 0; i + 1 < count && i < LUA_IDSIZE; i++) {
        if (text[i] != ':' || text[i + 1] < '0' || text[i + 1] > '9') continue;
        size_t end = i + 1;
        long line = 0;
        while (end < count && text[end] >= '0' && text[end] <= '9' && line < 100000000) {
            line = line * 10 + (text[end++] - '0');
        }
        if (end == count || text[end] != ':') continue;
        memcpy(e->file, text, i);
        e->outcome.file = rl_text(e->file, i);
        e->outcome.line = (int32_t)line;
        return;
    }
}

static void begin_failure(rl_engine *e, rl_code code) {
    memset(&e->outcome, 0, sizeof(e->outcome));
    e->outcome.status = rl_status_failed;
    e->outcome.code = code;
}

void rl_fail(rl_engine *e, rl_code code, const char *message) {
    begin_failure(e, code);
    set_message(e, message, strlen(message));
    find_place(e);
}

int rl_raise(lua_State *L, rl_code code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    lua_pushvfstring(L, format, arguments);
    va_end(arguments);
    rl_engine_of(L)->raising = code;
    return lua_error(L);
}

// MARK: Error objects that are no strings

// Stack: object → text. Runs in a coroutine of its own, under what is left of the call's budget.
static int to_text(lua_State *L) {
    luaL_tolstring(L, 1, NULL);
    return 1;
}

/// Asks the `__tostring` of the object on top of the failed thread, if it has one.
/// Stack: … → … text, or … where there is none worth having
static bool ask_object(lua_State *L, rl_engine *e, lua_State *failed) {
    if (!luaL_getmetafield(failed, -1, "__tostring")) return false;
    lua_pop(failed, 1);
    if (!lua_checkstack(failed, 1)) return false;
    lua_State *helper = lua_newthread(L);  // Stack: … helper
    rl_mark_engine_thread(helper);
    lua_pushcfunction(helper, to_text);
    lua_pushvalue(failed, -1);
    lua_xmove(failed, helper, 1);
    lua_State *active = e->active;
    e->active = NULL;
    e->uncapped--;  // This is the script's own code again.
    int results = 0;
    int status = rl_resume(e, helper, L, 1, &results);
    e->uncapped++;
    e->active = active;
    bool answered = status == LUA_OK && e->stopped == rl_code_none && lua_type(helper, -1) == LUA_TSTRING;
    if (answered) lua_xmove(helper, L, 1);  // Stack: … helper text
    lua_remove(L, answered ? -2 : -1);
    return answered;
}

// Stack: description (light userdata) → (anything)
static int describe(lua_State *L) {
    description *d = lua_touserdata(L, 1);
    rl_engine *e = d->engine;
    lua_State *failed = d->failed;
    luaL_traceback(L, failed, NULL, 0);
    size_t count;
    const char *text = lua_tolstring(L, -1, &count);
    // "stack traceback:\n\t…": the caller of all is always "[C]: in ?", the engine itself.
    static const char bottom[] = "\n\t[C]: in ?";
    if (count > sizeof(bottom) - 1 && memcmp(text + count - (sizeof(bottom) - 1), bottom, sizeof(bottom) - 1) == 0) {
        count -= sizeof(bottom) - 1;
    }
    if (count > sizeof(e->traceback)) count = sizeof(e->traceback);
    memcpy(e->traceback, text, count);
    e->outcome.traceback = rl_text(e->traceback, count);
    lua_pop(L, 1);
    if (d->status == LUA_OK || d->status == LUA_YIELD) return 0;  // Stopped: the message is there already.
    switch (lua_type(failed, -1)) {
        case LUA_TSTRING:
            text = lua_tolstring(failed, -1, &count);
            set_message(e, text, count);
            break;
        case LUA_TNUMBER:
            lua_pushvalue(failed, -1);
            lua_xmove(failed, L, 1);
            text = lua_tolstring(L, -1, &count);
            set_message(e, text, count);
            break;
        case LUA_TNIL:
            set_message(e, "(the error object is nil)", 25);
            break;
        default:
            if (ask_object(L, e, failed)) {
                text = lua_tolstring(L, -1, &count);
                set_message(e, text, count);
            } else {
                char generic[64];
                snprintf(generic, sizeof(generic), "(the error object is a %s)", luaL_typename(failed, -1));
                set_message(e, generic, strlen(generic));
            }
    }
    return 0;
}

/// Puts the place in front that a message of Lua's own for memory lacks.
static void describe_memory(rl_engine *e, lua_State *failed) {
    char text[256];
    lua_Debug ar;
    text[0] = 0;
    for (int level = 0; lua_getstack(failed, level, &ar); level++) {
        lua_getinfo(failed, "Sl", &ar);
        if (ar.currentline <= 0) continue;
        snprintf(text, sizeof(text), "%s:%d: ", ar.short_src, ar.currentline);
        break;
    }
    size_t length = strlen(text);
    snprintf(text + length, sizeof(text) - length,
             "not enough memory: the app's state has reached its limit of %zu bytes (scriptMemory)",
             e->budgets.memory_bytes);
    set_message(e, text, strlen(text));
}

/// The code of an error that the script did not cause by error(): the engine's, or one of memory.
static rl_code code_of(const rl_engine *e, lua_State *failed, int status) {
    if (status == LUA_ERRMEM) return rl_code_memory;
    if (e->raising != rl_code_none) return e->raising;
    if (e->memory_failed && lua_type(failed, -1) == LUA_TSTRING
        && strstr(lua_tostring(failed, -1), "not enough memory") != NULL) {
        return rl_code_memory;  // Caught by a pcall and raised again.
    }
    return rl_code_script;
}

void rl_describe_failure(rl_engine *e, lua_State *L, lua_State *failed, int status) {
    rl_code stopped = e->stopped;
    begin_failure(e, stopped != rl_code_none ? stopped : code_of(e, failed, status));
    rl_bytes nothing = {0};
    if (stopped != rl_code_none) {
        set_message(e, e->stop_message, strlen(e->stop_message));
        status = LUA_OK;
    }
    description d = {e, failed, status};
    int height = lua_gettop(L);
    e->uncapped++;
    if (lua_checkstack(L, 4)) {
        lua_pushcfunction(L, describe);
        lua_pushlightuserdata(L, &d);
        if (lua_pcall(L, 1, 0, 0) != LUA_OK && e->outcome.text.start == nothing.start) {
            set_message(e, "(the error could not be described)", 34);
        }
        lua_settop(L, height);
    }
    e->uncapped--;
    if (e->outcome.code == rl_code_memory && stopped == rl_code_none) describe_memory(e, failed);
    if (e->outcome.text.start == NULL) set_message(e, "(the error could not be described)", 34);
    // A stop while the object described itself changes nothing: the call has failed by its own error.
    if (stopped == rl_code_none) e->stopped = rl_code_none;
    find_place(e);
}
