// The json library: lua-cjson 2.1 with its settings fixed, its work charged and its sharp edges covered.
//
//  - It has no hooks and no limits on size, so a value is measured before it is encoded, a text before it is decoded.
//  - decode keeps a malloc'd copy while it builds Lua values, and would leak it where one of those raises for want of
//    memory. Room for all of them is made sure of before it starts.
//  - encode keeps a malloc'd buffer between calls; it is dropped after a large one.
//  - It decodes every number as a float: integral ones become integers again, else ids would print as "7.0".
//  - It encodes 14 digits at most: an integer that needs more is refused, a float is rounded.
//  - Empty tables are objects, `{}`: it cannot tell an empty array. Sparse arrays become objects with string keys where
//    less than half of more than ten slots are taken, else their gaps are null.
#include <lua.h>
#include <lua-cjson.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libraries.h"

/// Keys of the registry: cjson's own functions, out of reach for scripts.
static const char encodeKey, decodeKey, keepBufferKey;

/// Above this, encode's buffer is not kept. What is kept is at most six times as large: cjson reserves for escapes.
#define KEPT_BUFFER_BYTES ((size_t)64 << 10)
/// Doubles count by ones up to here.
#define LARGEST_EXACT_INTEGER 9007199254740992.0

/// What visiting a member of a table costs when it is measured and then encoded.
#define UNITS_PER_MEMBER 20

/// Adds up work and charges it in batches.
typedef struct rl_meter {
    lua_State *L;
    size_t work;
    /// Bytes that the JSON text will have, at most.
    size_t bytes;
    /// When the clock was last read, in nanoseconds, and the work counted since.
    uint64_t readAt;
    size_t workSinceReading;
} rl_meter;

static void count_mayraise(rl_meter *meter, size_t work) {
    meter->work += work;
    meter->workSinceReading += work;
    if (meter->work >= RL_TICK_BATCH) {
        size_t charged = meter->work;
        meter->work = 0;
        rl_tick(meter->L, charged);
    }
}

// MARK: Decoding

/// What a JSON text will become, before it is known to be JSON.
typedef struct rl_extent {
    size_t tables, separators, strings, stringBytes;
    bool hasNumbers;
} rl_extent;

static rl_extent measure_text(const char *text, size_t length) {
    rl_extent extent = {0};
    for (size_t i = 0; i < length; i++) {
        switch (text[i]) {
        case '"':
            extent.strings++;
            for (i++; i < length && text[i] != '"'; i++) {
                extent.stringBytes++;
                if (text[i] == '\\') i++;
            }
            break;
        case '[': case '{':
            extent.tables++;
            break;
        case ',': case ':':
            extent.separators++;
            break;
        case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
            extent.hasNumbers = true;
            break;
        default:
            break;
        }
    }
    return extent;
}

/// Raises a memory error unless the state can take what decoding will allocate. Sizes are those of Lua 5.4 on 64 bits:
/// 56 bytes a table; 24 a hash node, of which a growing table holds up to three per member; 25 and the bytes a string,
/// and up to three pointers for it in the table of short strings.
static void make_room_mayraise(lua_State *L, const rl_extent *extent) {
    size_t bytes = 16384 + extent->tables * 56 + (extent->tables + extent->separators) * 72 + extent->strings * 49 +
        extent->stringBytes;
    void *context;
    lua_Alloc allocate = lua_getallocf(L, &context);
    void *probe = allocate(context, NULL, LUA_TUSERDATA, bytes);
    if (probe == NULL) {
        // As Lua does before it gives up.
        lua_gc(L, LUA_GCCOLLECT);
        probe = allocate(context, NULL, LUA_TUSERDATA, bytes);
    }
    if (probe == NULL) {
        // Raises the memory error, with the status that belongs to it.
        lua_newuserdatauv(L, bytes, 0);
        lua_pop(L, 1);
    } else {
        allocate(context, probe, bytes, 0);
    }
}

/// Pushes the integer that the number at the top stands for. False, with nothing pushed, where it is to stay a float.
///
///     Stack: … number → … number [integer]
static bool push_integral(lua_State *L) {
    lua_Number number = lua_tonumber(L, -1);
    if (floor(number) != number || fabs(number) > LARGEST_EXACT_INTEGER) return false;
    lua_pushinteger(L, (lua_Integer)number);
    return true;
}

/// Makes the integral numbers in a decoded table integers. The recursion is as deep as decode allows.
///
///     Stack: … table → … table
static void restore_integers_mayraise(rl_meter *meter) {
    lua_State *L = meter->L;
    luaL_checkstack(L, 5, NULL);
    lua_pushnil(L);
    while (lua_next(L, -2)) {                          // Stack: … table key value
        count_mayraise(meter, 4);
        int type = lua_type(L, -1);
        if (type == LUA_TTABLE) {
            restore_integers_mayraise(meter);
        } else if (type == LUA_TNUMBER && push_integral(L)) {
            lua_pushvalue(L, -3);
            lua_insert(L, -2);                         // Stack: … table key value key integer
            lua_rawset(L, -5);                         // The key is there: nothing moves under lua_next.
        }
        lua_pop(L, 1);
    }
}

/// Stack: … text → … value
static void decode_mayraise(lua_State *L) {
    luaL_checkstack(L, 4, NULL);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (length > RL_MAXIMUM_RESULT_BYTES) {
        luaL_error(L, "JSON text too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
    rl_tick(L, length + 1);
    rl_extent extent = measure_text(text, length);
    rl_tick(L, 40 * (extent.tables + extent.separators + extent.strings) + length);
    make_room_mayraise(L, &extent);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &decodeKey);
    lua_insert(L, -2);                                 // Stack: … decode text
    lua_call(L, 1, 1);                                 // Stack: … value
    if (!extent.hasNumbers) return;
    if (lua_istable(L, -1)) {
        rl_meter meter = {.L = L};
        restore_integers_mayraise(&meter);
        rl_tick(L, meter.work + 1);
    } else if (lua_type(L, -1) == LUA_TNUMBER && push_integral(L)) {
        lua_replace(L, -2);
    }
}

int rl_json_decode(lua_State *L, const char *text, size_t length) {
    luaL_checkstack(L, 1, NULL);
    if (length > RL_MAXIMUM_RESULT_BYTES) {
        return luaL_error(L, "JSON text too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
    lua_pushlstring(L, text, length);
    decode_mayraise(L);
    return 1;
}

/// Stack: text → … value
static int json_decode(lua_State *L) {
    luaL_checkstring(L, 1);
    lua_settop(L, 1);
    decode_mayraise(L);
    return 1;
}

// MARK: Encoding

static void add_bytes_mayraise(rl_meter *meter, size_t bytes) {
    meter->bytes += bytes;
    if (meter->bytes > RL_MAXIMUM_RESULT_BYTES) {
        luaL_error(meter->L, "result too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
}

static void measure_string_mayraise(rl_meter *meter, int index) {
    size_t length;
    const char *text = lua_tolstring(meter->L, index, &length);
    add_bytes_mayraise(meter, length + 2);
    count_mayraise(meter, length + 10);
    size_t escapes = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte < 32 || byte == 127) {
            escapes += 5;
        } else if (byte == '"' || byte == '\\' || byte == '/') {
            escapes += 1;
        }
    }
    add_bytes_mayraise(meter, escapes);
}

/// Raises where cjson's 14 digits would turn an integer into another.
static void measure_number_mayraise(rl_meter *meter, int index) {
    lua_State *L = meter->L;
    add_bytes_mayraise(meter, 24);
    count_mayraise(meter, 50);
    if (!lua_isinteger(L, index)) return;
    lua_Integer integer = lua_tointeger(L, index);
    if (integer > -100000000000000 && integer < 100000000000000) return;
    // Whole multiples of powers of ten may still fit. Compared as doubles only where doubles are exact.
    char digits[32];
    snprintf(digits, sizeof digits, "%.14g", (double)integer);
    double written = strtod(digits, NULL);
    if (fabs(written) > LARGEST_EXACT_INTEGER || (lua_Integer)written != integer) {
        luaL_error(L, "cannot encode integer %I: JSON numbers have 14 digits here; use a string", (LUAI_UACINT)integer);
    }
}

static uint64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/// Charges for the time since the last reading that the work counted since then does not explain. That is for slots
/// without a member: a table that once was large takes milliseconds to traverse when it is all but empty, and many
/// tables may refer to the same one. Only the clock can tell; 2 ns are a unit.
static void charge_elapsed_mayraise(rl_meter *meter) {
    uint64_t now = nanoseconds();
    size_t took = (size_t)((now - meter->readAt) / 2), explained = meter->workSinceReading;
    meter->readAt = now;
    meter->workSinceReading = 0;
    if (took > explained) {
        // No more than brings the budget to look at the clock, which knows what time was this thread's own.
        size_t unexplained = took - explained;
        count_mayraise(meter, unexplained < 50000 ? unexplained : 50000);
        meter->workSinceReading = 0;
    }
}

/// Measures the value at the top and everything in it, so that cjson can neither run for long nor write too much.
///
///     Stack: … value → … value
static void measure_value_mayraise(rl_meter *meter, int depth) {
    lua_State *L = meter->L;
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        measure_string_mayraise(meter, -1);
        return;
    case LUA_TNUMBER:
        measure_number_mayraise(meter, -1);
        return;
    case LUA_TTABLE:
        break;
    default:
        add_bytes_mayraise(meter, 5);
        return;
    }
    if (depth == RL_MAXIMUM_JSON_DEPTH) {
        luaL_error(L, "cannot encode: nested deeper than %d, or a table that contains itself", RL_MAXIMUM_JSON_DEPTH);
    }
    luaL_checkstack(L, 5, NULL);
    // Ten slots of a short array may be gaps, and beyond that one for each that is taken.
    add_bytes_mayraise(meter, 2 + 10 * 5);
    lua_pushnil(L);
    while (lua_next(L, -2)) {                          // Stack: … value key member
        count_mayraise(meter, UNITS_PER_MEMBER);
        add_bytes_mayraise(meter, 2 + 5);
        if (lua_type(L, -2) == LUA_TSTRING) {
            measure_string_mayraise(meter, -2);
        } else if (lua_type(L, -2) == LUA_TNUMBER) {
            measure_number_mayraise(meter, -2);
        }
        measure_value_mayraise(meter, depth + 1);
        lua_pop(L, 1);
    }
    charge_elapsed_mayraise(meter);
}

/// Drops cjson's buffer and makes a fresh small one.   Stack: … → …
static void drop_buffer_mayraise(lua_State *L) {
    for (int keeps = 0; keeps <= 1; keeps++) {
        lua_rawgetp(L, LUA_REGISTRYINDEX, &keepBufferKey);
        lua_pushboolean(L, keeps);
        lua_call(L, 1, 0);
    }
}

int rl_json_encode(lua_State *L) {
    luaL_checkstack(L, 4, NULL);
    rl_meter meter = {.L = L, .work = 1, .readAt = lua_istable(L, -1) ? nanoseconds() : 0};
    measure_value_mayraise(&meter, 0);
    rl_tick(L, meter.work);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &encodeKey);
    lua_insert(L, -2);                                 // Stack: … encode value
    if (meter.bytes <= KEPT_BUFFER_BYTES) {
        lua_call(L, 1, 1);                             // Stack: … text
        return 1;
    }
    int status = lua_pcall(L, 1, 1, 0);                // Stack: … (text | error)
    drop_buffer_mayraise(L);
    return status == LUA_OK ? 1 : lua_error(L);
}

/// Stack: value → … text
static int json_encode(lua_State *L) {
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    return rl_json_encode(L);
}

// MARK: Opening

/// Stack: … cjson → … cjson
static void configure_mayraise(lua_State *L) {
    static const char *const depths[] = {"encode_max_depth", "decode_max_depth"};
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        lua_getfield(L, -1, depths[i]);
        lua_pushinteger(L, RL_MAXIMUM_JSON_DEPTH);
        lua_call(L, 1, 0);
    }
    static const struct { const char *name; bool isOn; } switches[] = {
        {"encode_invalid_numbers", false}, {"decode_invalid_numbers", false}, {"encode_keep_buffer", true}};
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        lua_getfield(L, -1, switches[i].name);
        lua_pushboolean(L, switches[i].isOn);
        lua_call(L, 1, 0);
    }
    lua_getfield(L, -1, "encode_sparse_array");
    lua_pushboolean(L, 1);                             // An array with too many gaps becomes an object:
    lua_pushinteger(L, 2);                             // more than two slots per member,
    lua_pushinteger(L, 10);                            // and slots beyond the tenth.
    lua_call(L, 3, 0);
}

void rl_open_json_mayraise(lua_State *L) {
    luaL_checkstack(L, 8, NULL);
    lua_pushcfunction(L, luaopen_cjson);
    lua_call(L, 0, 1);                                 // Stack: … cjson
    configure_mayraise(L);
    static const struct { const char *name; const void *key; } kept[] = {
        {"encode", &encodeKey}, {"decode", &decodeKey}, {"encode_keep_buffer", &keepBufferKey}};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        lua_getfield(L, -1, kept[i].name);
        lua_rawsetp(L, LUA_REGISTRYINDEX, kept[i].key);
    }
    lua_createtable(L, 0, 3);                          // Stack: … cjson json
    lua_pushcfunction(L, json_encode);
    lua_setfield(L, -2, "encode");
    lua_pushcfunction(L, json_decode);
    lua_setfield(L, -2, "decode");
    lua_getfield(L, -2, "null");
    lua_setfield(L, -2, "null");
    lua_replace(L, -2);                                // Stack: … json
}
