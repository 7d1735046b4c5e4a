// From a failed coroutine to what its author needs: a code, a sentence, file and line, the way there.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

typedef struct description {
    rl_engine *engine;
    lua_State *failed;
    rl_code code;
    /// The thread's topmost value is the error object; else it was stopped, and the message is there already.
    bool has_object;
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
    // Not while another object describes itself: the main thread counts no depth, so that could go on for ever.
    if (e->is_asking || !luaL_getmetafield(failed, -1, "__tostring")) return false;
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
    e->is_asking = true;
    int results = 0;
    int status = rl_resume(e, helper, L, 1, &results);
    e->is_asking = false;
    e->uncapped++;
    e->active = active;
    bool answered = status == LUA_OK && e->stopped == rl_code_none && lua_type(helper, -1) == LUA_TSTRING;
    if (answered) lua_xmove(helper, L, 1);  // Stack: … helper text
    lua_remove(L, answered ? -2 : -1);
    return answered;
}

/// Stack: … → … text, the error object's
static void push_text_mayraise(lua_State *L, rl_engine *e, lua_State *failed) {
    switch (lua_type(failed, -1)) {
        case LUA_TSTRING:
        case LUA_TNUMBER:
            lua_pushvalue(failed, -1);
            lua_xmove(failed, L, 1);
            return;
        case LUA_TNIL: lua_pushliteral(L, "(the error object is nil)"); return;
        default:
            if (!ask_object(L, e, failed)) lua_pushfstring(L, "(the error object is a %s)", luaL_typename(failed, -1));
    }
}

// Stack: description (light userdata) → (anything)
static int describe(lua_State *L) {
    description *d = lua_touserdata(L, 1);
    rl_engine *e = d->engine;
    // The text comes first: what the object's code does may fail, and fill the outcome with that.
    if (d->has_object) push_text_mayraise(L, e, d->failed);
    else lua_pushstring(L, e->stop_message);
    luaL_traceback(L, d->failed, NULL, 0);  // Stack: description text traceback
    begin_failure(e, d->code);
    size_t count;
    const char *text = lua_tolstring(L, 2, &count);
    set_message(e, text, count);
    text = lua_tolstring(L, 3, &count);
    // "stack traceback:\n\t…": the caller of all is always "[C]: in ?", the engine itself.
    static const char bottom[] = "\n\t[C]: in ?";
    const size_t bottomSize = sizeof(bottom) - 1;
    if (count > bottomSize && memcmp(text + count - bottomSize, bottom, bottomSize) == 0) count -= bottomSize;
    if (count > sizeof(e->traceback)) count = sizeof(e->traceback);
    memcpy(e->traceback, text, count);
    if (count > sizeof("stack traceback:")) e->outcome.traceback = rl_text(e->traceback, count);
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

void rl_describe_failure(rl_engine *e, lua_State *failed, int status) {
    lua_State *L = e->main;  // However deep the failed thread is, this one has room.
    rl_code stopped = e->stopped;
    bool isStopped = stopped != rl_code_none;
    description d = {e, failed, isStopped ? stopped : code_of(e, failed, status), !isStopped};
    int height = lua_gettop(L);
    bool isDescribed = false;
    e->uncapped++;
    if (lua_checkstack(L, 4)) {
        lua_pushcfunction(L, describe);
        lua_pushlightuserdata(L, &d);
        isDescribed = lua_pcall(L, 1, 0, 0) == LUA_OK;
        lua_settop(L, height);
    }
    e->uncapped--;
    if (!isDescribed) {
        static const char generic[] = "(the error could not be described)";
        begin_failure(e, d.code);
        set_message(e, isStopped ? e->stop_message : generic, strlen(isStopped ? e->stop_message : generic));
    }
    if (d.code == rl_code_memory && !isStopped) describe_memory(e, failed);
    // A stop while the object described itself changes nothing: the call has failed by its own error.
    if (!isStopped) e->stopped = rl_code_none;
    find_place(e);
}
