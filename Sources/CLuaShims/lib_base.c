// The base functions that scripts have, and the opening of all libraries.
#include <lualib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "libraries.h"

// MARK: Metatables and raw access

/// Stack: table (metatable | nil) → … table
static int base_setmetatable(lua_State *L) {
    int type = lua_type(L, 2);
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL) {
        return luaL_error(L, "cannot change a protected metatable");
    }
    if (type == LUA_TTABLE) {
        // Lua 5.4 takes a table for one with a finalizer only if `__gc` is there now. Hooks do not run in finalizers.
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL) return luaL_error(L, "'__gc' is not allowed in a metatable");
    }
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

/// Stack: table key value → … table
static int base_rawset(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    luaL_checkany(L, 3);
    lua_settop(L, 3);
    rl_check_rawset_mayraise(L, 1, 2);
    lua_rawset(L, 1);
    return 1;
}

/// Goes on as the stock tonumber in upvalue 1, charged for reading a text.
/// Stack: value [base] → … number
static int base_tonumber(lua_State *L) {
    if (lua_type(L, 1) == LUA_TSTRING) rl_tick(L, lua_rawlen(L, 1) / 2 + 1);
    return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

/// Only `collectgarbage("count")`: a full collection of the largest state would hold the loop, and the collector's
/// settings are the relay's.
/// Stack: [option] → … kibibytes
static int base_collectgarbage(lua_State *L) {
    const char *option = luaL_optstring(L, 1, "collect");
    if (strcmp(option, "count") != 0) {
        return luaL_error(L, "collectgarbage('%s') is not available, only 'count' is", option);
    }
    lua_pushnumber(L, (lua_Number)lua_gc(L, LUA_GCCOUNT) + (lua_Number)lua_gc(L, LUA_GCCOUNTB) / 1024);
    return 1;
}

// MARK: load

/// How much text the compiler gets between two ticks. Ordinary source compiles at 4 to 25 ns a byte, but the worst
/// found is quadratic: 256 KiB of `return a and a and …` took 2.2 s. The last slice of that takes about 5 ms.
#define SLICE_BYTES 256
/// Units charged for a byte beforehand: what ordinary source costs.
#define UNITS_PER_SOURCE_BYTE 8
/// Nanoseconds of the compiler's own time that count as one unit.
#define NANOSECONDS_PER_UNIT 2

/// Jumps that a chunk may have. At the end of a block Lua's compiler compares all that are open with each other, in one
/// step that nothing can stop: 32 000 `break`s took 0.25 s, 8192 take a sixteenth of that.
#define MAXIMUM_JUMPS 8192

/// Where a lua_Reader stands.
typedef struct rl_source {
    const char *text;
    size_t left;
    /// Bytes handed out so far.
    size_t total;
    /// When the latest slice was handed out, in nanoseconds of this thread's CPU time, and the units charged for it.
    uint64_t handedOutAt;
    size_t charged;
    /// The last bytes that were handed out, and the words among all of them that jump.
    uint64_t tail;
    size_t jumps;
    /// Stack index of the function that brings more text, 0 where there is none, and of the slot that keeps its
    /// latest piece alive.
    int function, piece;
} rl_source;

static uint64_t thread_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/// Calls the script's reader function for the next piece. False at its end.
static bool read_piece_mayraise(lua_State *L, rl_source *source) {
    luaL_checkstack(L, 4, "too many nested functions");
    lua_pushvalue(L, source->function);
    lua_call(L, 0, 1);                                // Stack: … piece
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        return false;
    }
    if (!lua_isstring(L, -1)) luaL_error(L, "reader function must return a string");
    lua_replace(L, source->piece);                    // Stack: …
    source->text = lua_tolstring(L, source->piece, &source->left);
    if (source->left > RL_MAXIMUM_CHUNK_BYTES - source->total) {
        luaL_error(L, "chunk too large (limit %d bytes)", (int)RL_MAXIMUM_CHUNK_BYTES);
    }
    return source->left > 0;
}

/// Counts `break` and `goto`, wherever they stand: a name or a comment that has them counts too.
static void count_jumps_mayraise(lua_State *L, rl_source *source, const char *slice, size_t size) {
    for (size_t i = 0; i < size; i++) {
        source->tail = source->tail << 8 | (unsigned char)slice[i];
        bool isGoto = (source->tail & 0xFFFFFFFFu) == 0x676F746Fu;
        bool isBreak = (source->tail & 0xFFFFFFFFFFu) == 0x627265616Bu;
        source->jumps += isGoto || isBreak;
    }
    if (source->jumps > MAXIMUM_JUMPS) luaL_error(L, "more than %d jumps in one chunk", MAXIMUM_JUMPS);
}

/// A lua_Reader that hands out small slices and charges for what the compiler did with the one before. May raise:
/// lua_load protects it.
static const char *read_slice(lua_State *L, void *context, size_t *size) {
    rl_source *source = context;
    *size = 0;
    uint64_t now = thread_nanoseconds();
    if (source->total > 0) {
        size_t took = (size_t)((now - source->handedOutAt) / NANOSECONDS_PER_UNIT);
        if (took > source->charged) rl_tick(L, took - source->charged);
    }
    if (source->left == 0) {
        if (source->function == 0 || !read_piece_mayraise(L, source)) return NULL;
        now = thread_nanoseconds();  // The script's function is under the hook, not charged here.
    }
    const char *slice = source->text;
    *size = source->left < SLICE_BYTES ? source->left : SLICE_BYTES;
    count_jumps_mayraise(L, source, slice, *size);
    source->text += *size;
    source->left -= *size;
    source->total += *size;
    source->charged = *size * UNITS_PER_SOURCE_BYTE;
    source->handedOutAt = now;
    rl_tick(L, source->charged);
    return slice;
}

int rl_load_text(lua_State *L, const char *text, size_t length, const char *chunkName) {
    rl_source source = {.text = text, .left = length};
    return lua_load(L, read_slice, &source, chunkName, "t");
}

/// Stack: chunk [name [mode [environment]]] → … (function | nil message)
static int base_load(lua_State *L) {
    size_t length = 0;
    const char *text = lua_tolstring(L, 1, &length);
    const char *name = luaL_optstring(L, 2, text != NULL ? text : "=(load)");
    const char *mode = luaL_optstring(L, 3, "t");
    bool hasEnvironment = !lua_isnone(L, 4);
    lua_settop(L, 5);                                 // Stack: chunk name mode environment piece
    if (strchr(mode, 't') == NULL) {
        luaL_pushfail(L);
        lua_pushfstring(L, "attempt to load a text chunk (mode is '%s'); binary chunks are never loaded", mode);
        return 2;
    }
    if (text != NULL && length > RL_MAXIMUM_CHUNK_BYTES) {
        luaL_pushfail(L);
        lua_pushfstring(L, "chunk too large (limit %d bytes)", (int)RL_MAXIMUM_CHUNK_BYTES);
        return 2;
    }
    int status;
    if (text != NULL) {
        status = rl_load_text(L, text, length, name);
    } else {
        luaL_checktype(L, 1, LUA_TFUNCTION);
        rl_source source = {.function = 1, .piece = 5};
        status = lua_load(L, read_slice, &source, name, "t");
    }                                                 // Stack: chunk name mode environment piece (function | message)
    if (status != LUA_OK) {
        luaL_pushfail(L);
        lua_insert(L, -2);
        return 2;
    }
    if (hasEnvironment) {
        lua_pushvalue(L, 4);
        // The first upvalue of a chunk is _ENV; a chunk that uses no global has it all the same.
        if (lua_setupvalue(L, -2, 1) == NULL) lua_pop(L, 1);
    }
    return 1;
}

// MARK: Opening

void rl_add_base_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"collectgarbage", base_collectgarbage}, {"load", base_load}, {"rawset", base_rawset},
        {"setmetatable", base_setmetatable},     {NULL, NULL},
    };
    static const char *const stock[] = {
        "_VERSION", "assert", "error",  "getmetatable", "ipairs", "next", "pairs",    "pcall",
        "rawequal", "rawget", "rawlen", "select",       "tostring", "type", "xpcall",
    };
    luaL_checkstack(L, 6, NULL);
    luaL_setfuncs(L, functions, 0);
    // Stock fills the state's own globals table, which rl_make_globals replaces.
    lua_pushcfunction(L, luaopen_base);
    lua_call(L, 0, 1);                                // Stack: … libs base
    for (size_t i = 0; i < sizeof stock / sizeof stock[0]; i++) {
        lua_getfield(L, -1, stock[i]);
        lua_setfield(L, -3, stock[i]);
    }
    lua_getfield(L, -1, "tonumber");
    lua_pushcclosure(L, base_tonumber, 1);
    lua_setfield(L, -3, "tonumber");
    lua_pop(L, 1);                                    // Stack: … libs
}

static void open_math_mayraise(lua_State *L) {
    lua_pushcfunction(L, luaopen_math);
    lua_call(L, 0, 1);
}

void rl_open_libraries(lua_State *L) {
    static const struct { const char *name; void (*open)(lua_State *L); } libraries[] = {
        {"string", rl_open_string_mayraise}, {"table", rl_open_table_mayraise}, {"math", open_math_mayraise},
        {"utf8", rl_open_utf8_mayraise},     {"os", rl_open_os_mayraise},       {"json", rl_open_json_mayraise},
    };
    luaL_checkstack(L, 8, NULL);
    lua_newtable(L);                                  // Stack: … libs
    rl_add_base_mayraise(L);
    for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
        libraries[i].open(L);                         // Stack: … libs library
        rl_push_readonly(L, libraries[i].name);       // Stack: … libs proxy
        lua_setfield(L, -2, libraries[i].name);       // Stack: … libs
    }
}
