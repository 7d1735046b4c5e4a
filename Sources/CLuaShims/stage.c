// Changes: a text is compiled and run aside; what it assigns and registers is held back until the relay commits it.
//
// A unit is a table in the units slot, by its id:
//   [RL_UNIT_ENVIRONMENT], [RL_UNIT_REMOVED] what the text has assigned, and the globals that it has set to nil
//   [RL_UNIT_CHUNK] the compiled text: its one upvalue is the _ENV of all its functions
//   [RL_UNIT_ENTRIES] registrations, RL_ENTRY_SIZE slots each
//   [RL_UNIT_MODULE], [RL_UNIT_VALUE] a module's name and what it returned
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum {
    RL_UNIT_ENVIRONMENT = 1,
    RL_UNIT_REMOVED,
    RL_UNIT_CHUNK,
    RL_UNIT_ENTRIES,
    RL_UNIT_MODULE,
    RL_UNIT_VALUE,
};
enum {
    RL_ENTRY_IS_HOOK = 1,
    RL_ENTRY_IS_PUBLIC,
    RL_ENTRY_NAME,
    RL_ENTRY_SUMMARY,
    RL_ENTRY_FUNCTION,
    RL_ENTRY_SIZE = 5,
};

#define RL_MAXIMUM_HINT_BYTES 200

typedef struct stage_request {
    rl_unit_kind kind;
    rl_bytes name;
    rl_bytes source;
    bool is_public;
} stage_request;

// MARK: Registering

void rl_add_entry_mayraise(lua_State *L, bool isHook, bool isPublic) {
    rl_engine *e = rl_engine_of(L);
    rl_push_slot(L, e, rl_slot_units);
    lua_rawgeti(L, -1, e->unit);
    lua_rawgeti(L, -1, RL_UNIT_ENTRIES);  // Stack: … name summary function units unit entries
    lua_Integer base = (lua_Integer)lua_rawlen(L, -1);
    lua_pushboolean(L, isHook);
    lua_rawseti(L, -2, base + RL_ENTRY_IS_HOOK);
    lua_pushboolean(L, isPublic);
    lua_rawseti(L, -2, base + RL_ENTRY_IS_PUBLIC);
    for (int i = 0; i < 3; i++) {
        lua_pushvalue(L, -6 + i);
        lua_rawseti(L, -2, base + RL_ENTRY_NAME + i);
    }
    lua_pop(L, 6);
}

/// Gives each registered function its reference. The slots exist already, so a raise in between leaves every reference
/// where rl_unit_discard finds it.   Stack: unit …
static void make_references_mayraise(lua_State *L) {
    lua_rawgeti(L, 1, RL_UNIT_ENTRIES);
    lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
    for (lua_Integer i = RL_ENTRY_FUNCTION; i <= count; i += RL_ENTRY_SIZE) {
        lua_rawgeti(L, -1, i);
        lua_pushinteger(L, luaL_ref(L, LUA_REGISTRYINDEX));
        lua_rawseti(L, -2, i);
    }
    lua_pop(L, 1);
}

// MARK: Compiling

static size_t line_of(const char *text, const char *at) {
    size_t line = 1;
    for (; text < at; text++) line += *text == '\n';
    return line;
}

/// Refuses what cannot be Lua text, with a sentence.
static void check_text_mayraise(lua_State *L, const char *name, const char *text, size_t count) {
    if (count > 0 && text[0] == 0x1B) {
        rl_raise(L, rl_code_compile, "%s:1: this is a binary chunk (its first byte is 0x1B), only text is taken", name);
    }
    const char *zero = memchr(text, 0, count);
    if (zero != NULL) {
        rl_raise(L, rl_code_compile, "%s:%d: the text has a byte 0x00", name, (int)line_of(text, zero));
    }
    if (!rl_is_utf8(text, count)) {
        size_t low = 0, high = count;  // The longest valid beginning ends at most three bytes before the fault.
        while (high - low > 1) {
            size_t middle = low + (high - low) / 2, cut = middle;
            while (cut > low && middle - cut < 3 && (text[cut] & 0xC0) == 0x80) cut--;
            if (cut > low && rl_is_utf8(text + low, cut - low)) low = cut;
            else if (cut <= low) break;
            else high = cut;
        }
        rl_raise(L, rl_code_compile, "%s:%d: the text is not valid UTF-8", name, (int)line_of(text, text + low));
    }
    if (strspn(text, " \t\r\n") >= count) rl_raise(L, rl_code_compile, "%s:1: the text is empty", name);
}

/// What a body written in JavaScript is told: the head of its function as Lua has it, with the connection, which is
/// `this` there, in front of the parameters. Nothing for others.   Stack: … → … hint
static void push_javascript_hint_mayraise(lua_State *L, const char *body, size_t count) {
    const char *end = body + count;
    for (const char *at = body; (at = memchr(at, ')', (size_t)(end - at))) != NULL;) {
        const char *close = at++;
        while (at < end && strchr(" \n\r\t", *at) != NULL) at++;
        bool isBrace = at < end && *at == '{';
        bool isArrow = end - at >= 2 && at[0] == '=' && at[1] == '>';
        if (!isBrace && !isArrow) continue;
        // Names and commas only: what is no plain list of parameters (defaults, patterns) is left out.
        const char *open = close;
        while (open > body && (isalnum((unsigned char)open[-1]) || strchr("_$, \n\r\t", open[-1]) != NULL)) open--;
        bool isList = open > body && open[-1] == '(' && close - open <= RL_MAXIMUM_HINT_BYTES;
        while (isList && open < close && strchr(" \n\r\t", *open) != NULL) open++;
        while (isList && close > open && strchr(" \n\r\t", close[-1]) != NULL) close--;
        lua_pushliteral(L, " (this looks like JavaScript; in Lua this function is written function(conn");
        if (isList && open < close) {
            lua_pushliteral(L, ", ");
            lua_pushlstring(L, open, (size_t)(close - open));
            lua_concat(L, 3);
        }
        lua_pushliteral(L, ") ... end)");
        lua_concat(L, 2);
        return;
    }
    lua_pushliteral(L, "");
}

/// Stack: unit → unit chunk
static void compile_mayraise(lua_State *L, const stage_request *request) {
    const char *text = request->source.start;
    size_t count = request->source.count;
    if (count >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        count -= 3;
    }
    lua_pushlstring(L, request->name.start, request->name.count);
    lua_pushliteral(L, "=");
    lua_pushvalue(L, -2);
    lua_concat(L, 2);
    const char *name = lua_tostring(L, 2), *chunkName = lua_tostring(L, 3);
    // A copy that ends in a zero byte, and for an expression the word in front of it, on its first line.
    lua_pushstring(L, request->kind == rl_unit_instruction ? "return " : "");
    size_t prefix = lua_rawlen(L, -1);
    lua_pushlstring(L, text, count);
    lua_concat(L, 2);  // Stack: unit name chunkName text
    text = lua_tolstring(L, 4, &count);
    check_text_mayraise(L, name, text + prefix, count - prefix);
    int status = rl_load_text(L, text, count, chunkName);
    if (status != LUA_OK) {
        // Stack: unit name chunkName text message
        if (status == LUA_ERRSYNTAX) {
            rl_engine_of(L)->raising = rl_code_compile;
            if (request->kind == rl_unit_instruction) {
                push_javascript_hint_mayraise(L, text, count);
                lua_concat(L, 2);
            }
        }
        // The parser's own recursion ends in an error without a place.
        bool isNested = status == LUA_ERRRUN && rl_engine_of(L)->stopped == rl_code_none;
        if (isNested) rl_raise(L, rl_code_compile, "%s: the text is nested too deeply (%s)", name, lua_tostring(L, -1));
        lua_error(L);
    }
    lua_replace(L, 2);
    lua_settop(L, 2);
}

// MARK: Running aside

/// Stack: unit value → (anything)
static int finish_stage(lua_State *L, int status, lua_KContext context) {
    (void)status;
    const stage_request *request = (const stage_request *)context;
    rl_engine *e = rl_engine_of(L);
    if (e->stopped != rl_code_none) return 0;
    if (request->kind == rl_unit_instruction) {
        if (!lua_isfunction(L, 2)) {
            char name[LUA_IDSIZE];
            snprintf(name, sizeof(name), "%.*s", (int)request->name.count, request->name.start);
            rl_raise(L, rl_code_compile, "%s:1: the body must be a function, as in function(conn) ... end, not a %s",
                     name, luaL_typename(L, 2));
        }
        lua_pushlstring(L, request->name.start, request->name.count);
        lua_pushliteral(L, "");
        lua_pushvalue(L, 2);  // Stack: unit f name summary f
        rl_add_entry_mayraise(L, false, request->is_public);
    } else if (request->kind == rl_unit_module) {
        if (lua_isnil(L, 2)) lua_pushboolean(L, true);  // As Lua's own require does.
        lua_rawseti(L, 1, RL_UNIT_VALUE);
        lua_pushlstring(L, request->name.start, request->name.count);
        lua_rawseti(L, 1, RL_UNIT_MODULE);
    }
    make_references_mayraise(L);
    return 0;
}

// The bottom of a load's coroutine.   Stack: request (light userdata)
static int enter_stage(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    stage_request *request = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_createtable(L, RL_UNIT_VALUE, 0);  // Stack: unit
    rl_push_slot(L, e, rl_slot_units);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, e->unit);
    rl_push_environment_mayraise(L);  // Stack: unit units environment removed
    lua_rawseti(L, 1, RL_UNIT_REMOVED);
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);  // What chunks get as _ENV, the script's own loads too.
    lua_rawseti(L, 1, RL_UNIT_ENVIRONMENT);
    lua_newtable(L);
    lua_rawseti(L, 1, RL_UNIT_ENTRIES);
    lua_settop(L, 1);
    compile_mayraise(L, request);  // Stack: unit chunk
    lua_pushvalue(L, 2);
    lua_rawseti(L, 1, RL_UNIT_CHUNK);
    lua_callk(L, 0, 1, (lua_KContext)request, finish_stage);
    return finish_stage(L, LUA_OK, (lua_KContext)request);
}

/// Makes `environment`, the globals where it is 0, what chunks get as _ENV.
static void set_environment(rl_engine *e, int32_t unit) {
    lua_State *L = e->main;
    if (unit == 0) {
        rl_push_slot(L, e, rl_slot_globals);
    } else {
        rl_push_slot(L, e, rl_slot_units);
        lua_rawgeti(L, -1, unit);
        lua_rawgeti(L, -1, RL_UNIT_ENVIRONMENT);
        lua_replace(L, -3);
        lua_pop(L, 1);
    }
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
}

const rl_outcome *rl_stage(
    rl_engine *e, rl_unit_kind kind, rl_bytes name, rl_bytes source, bool is_public, int32_t *unit) {
    RL_ENTER(e);
    rl_call_state *call = rl_take_call(e);
    if (call == NULL) {
        rl_fail(e, rl_code_memory, "not enough memory to load (scriptMemory)");
        return &e->outcome;
    }
    stage_request request = {kind, name, source, is_public};
    call->kind = rl_call_evaluate;
    e->phase = rl_phase_loading;
    e->unit = ++e->last_unit;
    lua_pushcfunction(call->thread, enter_stage);
    lua_pushlightuserdata(call->thread, &request);
    memset(&e->outcome, 0, sizeof(e->outcome));
    const rl_outcome *outcome = rl_run(e, call, 1);
    e->phase = rl_phase_serving;
    *unit = e->unit;
    e->unit = 0;
    set_environment(e, 0);
    if (outcome->status != rl_status_returned) rl_unit_discard(e, *unit);
    RL_LEAVE(e);
    return outcome;
}

// MARK: What a unit holds

/// Stack of the main thread: … → … units unit entries; answers how many slots the entries have, 0 for no such unit
static lua_Integer push_entries(rl_engine *e, int32_t unit) {
    lua_State *L = e->main;
    rl_push_slot(L, e, rl_slot_units);
    if (lua_rawgeti(L, -1, unit) != LUA_TTABLE) {
        lua_pushnil(L);
        return 0;
    }
    return lua_rawgeti(L, -1, RL_UNIT_ENTRIES) == LUA_TTABLE ? (lua_Integer)lua_rawlen(L, -1) : 0;
}

bool rl_unit_registration(rl_engine *e, int32_t unit, size_t index, rl_registration *registration) {
    RL_ENTER(e);
    lua_State *L = e->main;
    lua_Integer base = (lua_Integer)index * RL_ENTRY_SIZE;
    bool exists = base < push_entries(e, unit);
    if (exists) {
        lua_rawgeti(L, -1, base + RL_ENTRY_IS_HOOK);
        lua_rawgeti(L, -2, base + RL_ENTRY_IS_PUBLIC);
        lua_rawgeti(L, -3, base + RL_ENTRY_NAME);
        lua_rawgeti(L, -4, base + RL_ENTRY_SUMMARY);
        lua_rawgeti(L, -5, base + RL_ENTRY_FUNCTION);
        registration->is_hook = lua_toboolean(L, -5);
        registration->is_public = lua_toboolean(L, -4);
        registration->name.start = lua_tolstring(L, -3, &registration->name.count);
        registration->summary.start = lua_tolstring(L, -2, &registration->summary.count);
        registration->function = (int32_t)lua_tointeger(L, -1);
        lua_pop(L, 5);
    }
    lua_pop(L, 3);
    RL_LEAVE(e);
    return exists;
}

const rl_outcome *rl_unit_reload(rl_engine *e, int32_t unit, int64_t previous_generation) {
    RL_ENTER(e);
    memset(&e->outcome, 0, sizeof(e->outcome));
    rl_registration registration;
    e->phase = rl_phase_reloading;
    e->unit = unit;
    set_environment(e, unit);
    for (size_t i = 0; rl_unit_registration(e, unit, i, &registration); i++) {
        rl_bytes name = registration.name;
        bool isReload = registration.is_hook && name.count == 6 && memcmp(name.start, "reload", 6) == 0;
        rl_request request = {
            .kind = rl_call_reload, .function = registration.function, .number = previous_generation};
        if (isReload && rl_call(e, &request)->status != rl_status_returned) break;
    }
    e->phase = rl_phase_serving;
    e->unit = 0;
    set_environment(e, 0);
    RL_LEAVE(e);
    return &e->outcome;
}

// MARK: Ending a unit

// Stack: unit id → (anything)
static int commit(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_push_slot(L, e, rl_slot_units);
    lua_pushvalue(L, 1);
    if (lua_rawget(L, -2) != LUA_TTABLE) return 0;
    lua_replace(L, 1);
    lua_settop(L, 1);
    lua_rawgeti(L, 1, RL_UNIT_ENVIRONMENT);
    lua_rawgeti(L, 1, RL_UNIT_REMOVED);
    rl_commit_environment_mayraise(L);  // Stack: unit G
    // All functions of the text share the chunk's _ENV: now it is the globals.
    lua_rawgeti(L, 1, RL_UNIT_CHUNK);
    lua_insert(L, -2);
    lua_setupvalue(L, -2, 1);  // Stack: unit chunk
    if (lua_rawgeti(L, 1, RL_UNIT_MODULE) == LUA_TSTRING) {  // Stack: unit chunk name
        rl_push_slot(L, e, rl_slot_modules);
        lua_insert(L, -2);
        lua_rawgeti(L, 1, RL_UNIT_VALUE);
        lua_rawset(L, -3);
    }
    return 0;
}

static void drop_unit(rl_engine *e, int32_t unit) {
    lua_State *L = e->main;
    rl_push_slot(L, e, rl_slot_units);
    if (lua_rawgeti(L, -1, unit) != LUA_TNIL) {
        lua_pushnil(L);
        lua_rawseti(L, -3, unit);  // The key exists: nothing is allocated, nothing raises.
    }
    lua_pop(L, 2);
}

void rl_unit_commit(rl_engine *e, int32_t unit) {
    RL_ENTER(e);
    e->unit_timer_count = 0;
    e->uncapped++;
    lua_pushcfunction(e->main, commit);
    lua_pushinteger(e->main, unit);
    // Not capped, it can only fail where malloc does, and then half of the change is visible: no way on.
    if (lua_pcall(e->main, 1, 0, 0) != LUA_OK) abort();
    e->uncapped--;
    drop_unit(e, unit);
    RL_LEAVE(e);
}

void rl_unit_discard(rl_engine *e, int32_t unit) {
    RL_ENTER(e);
    lua_State *L = e->main;
    lua_Integer count = push_entries(e, unit);
    for (lua_Integer i = RL_ENTRY_FUNCTION; i <= count; i += RL_ENTRY_SIZE) {
        if (lua_rawgeti(L, -1, i) == LUA_TNUMBER) luaL_unref(L, LUA_REGISTRYINDEX, (int)lua_tointeger(L, -1));
        lua_pop(L, 1);
    }
    lua_pop(L, 3);
    drop_unit(e, unit);
    for (size_t i = 0; i < e->unit_timer_count; i++) {
        rl_forget_timer(L, e->unit_timers[i]);
        e->host.cancel(e->host.context, e->unit_timers[i]);
    }
    e->unit_timer_count = 0;
    RL_LEAVE(e);
}
