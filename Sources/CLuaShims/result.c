// What a function returned, as JSON text: scalars natively into the engine's buffer, tables through the json library.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/// A buffer that a large result has grown beyond this is not kept for the next call.
#define RL_BUFFER_KEPT ((size_t)256 << 10)

/// Makes room for `count` bytes. Contents need not survive.
static char *reserve_mayraise(lua_State *L, rl_engine *e, size_t count) {
    if (count <= e->buffer_capacity && (e->buffer_capacity <= RL_BUFFER_KEPT || count > RL_BUFFER_KEPT)) {
        return e->buffer;
    }
    free(e->buffer);
    e->buffer_capacity = count < 512 ? 512 : count;
    e->buffer = malloc(e->buffer_capacity);
    if (e->buffer == NULL) {
        e->buffer_capacity = 0;
        luaL_error(L, "not enough memory for the result");
    }
    return e->buffer;
}

static void check_size_mayraise(lua_State *L, rl_engine *e, size_t count) {
    if (count <= e->budgets.output_bytes) return;
    rl_raise(L, rl_code_output, "output exceeded: the result has %d bytes as JSON, more than one call may send "
             "(outputBytesPerCall)", (int)count);
}

/// How many bytes a string takes as JSON, quotes included.
static size_t quoted_size(const char *text, size_t count) {
    size_t size = count + 2;
    for (size_t i = 0; i < count; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '"' || byte == '\\') size += 1;
        else if (byte < 0x20) size += byte == '\v' || byte < '\b' || byte > '\r' ? 5 : 1;  // \b \t \n \f \r are short.
    }
    return size;
}

/// Writes a string with its quotes (RFC 8259 §7); `out` has room for quoted_size bytes.
static void write_quoted(char *out, const char *text, size_t count) {
    static const char hexadecimal[] = "0123456789abcdef";
    *out++ = '"';
    for (size_t i = 0; i < count; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\') {
            *out++ = (char)byte;
            continue;
        }
        *out++ = '\\';
        switch (byte) {
            case '"':
            case '\\': *out++ = (char)byte; break;
            case '\n': *out++ = 'n'; break;
            case '\r': *out++ = 'r'; break;
            case '\t': *out++ = 't'; break;
            case '\b': *out++ = 'b'; break;
            case '\f': *out++ = 'f'; break;
            default:
                memcpy(out, "u00", 3);
                out[3] = hexadecimal[byte >> 4];
                out[4] = hexadecimal[byte & 15];
                out += 5;
        }
    }
    *out = '"';
}

static rl_bytes encode_string_mayraise(lua_State *L, rl_engine *e, int index) {
    size_t count;
    const char *text = lua_tolstring(L, index, &count);
    check_size_mayraise(L, e, count);
    rl_tick(L, count / 4);
    if (!rl_is_utf8(text, count)) {
        luaL_error(L, "the result is a string that is not valid UTF-8, which JSON cannot carry");
    }
    size_t size = quoted_size(text, count);
    check_size_mayraise(L, e, size);
    char *out = reserve_mayraise(L, e, size);
    write_quoted(out, text, count);
    return rl_text(out, size);
}

static rl_bytes encode_number_mayraise(lua_State *L, rl_engine *e, int index) {
    char *out = reserve_mayraise(L, e, 40);
    int count;
    if (lua_isinteger(L, index)) {
        count = snprintf(out, 40, "%lld", (long long)lua_tointeger(L, index));
    } else {
        double value = lua_tonumber(L, index);
        if (isnan(value)) luaL_error(L, "the result is NaN, which JSON cannot carry");
        if (isinf(value)) luaL_error(L, "the result is infinite, which JSON cannot carry");
        // The shortest of the two that reads back as the same number.
        count = snprintf(out, 40, "%.15g", value);
        if (strtod(out, NULL) != value) count = snprintf(out, 40, "%.17g", value);
    }
    return rl_text(out, (size_t)count);
}

/// Stack: … → … (the JSON text is anchored in the registry until the next result)
static rl_bytes encode_table_mayraise(lua_State *L, rl_engine *e, int index) {
    lua_pushvalue(L, index);
    rl_json_encode(L);
    size_t count;
    const char *text = lua_tolstring(L, -1, &count);
    check_size_mayraise(L, e, count);
    if (!rl_is_utf8(text, count)) {
        luaL_error(L, "the result has a text that is not valid UTF-8, which JSON cannot carry");
    }
    lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_result]);
    return rl_text(text, count);
}

/// Above this the server's `open` would have little room for the rest.
#define RL_MAXIMUM_METADATA_BYTES ((size_t)4 << 10)

rl_bytes rl_push_metadata_mayraise(lua_State *L, int index) {
    lua_pushvalue(L, index);
    rl_json_encode(L);
    size_t count;
    const char *text = lua_tolstring(L, -1, &count);
    if (count > RL_MAXIMUM_METADATA_BYTES) {
        luaL_error(L, "the metadata has %d bytes as JSON, more than %d", (int)count, (int)RL_MAXIMUM_METADATA_BYTES);
    }
    if (!rl_is_utf8(text, count)) {
        luaL_error(L, "the metadata has a text that is not valid UTF-8, which JSON cannot carry");
    }
    return rl_text(text, count);
}

void rl_encode_result_mayraise(lua_State *L, rl_engine *e, int index) {
    rl_bytes json = {0};
    switch (lua_type(L, index)) {
        case LUA_TNONE:
        case LUA_TNIL: json = rl_text("null", 4); break;
        case LUA_TBOOLEAN: json = lua_toboolean(L, index) ? rl_text("true", 4) : rl_text("false", 5); break;
        case LUA_TNUMBER: json = encode_number_mayraise(L, e, index); break;
        case LUA_TSTRING: json = encode_string_mayraise(L, e, index); break;
        case LUA_TTABLE:
        case LUA_TLIGHTUSERDATA: json = encode_table_mayraise(L, e, index); break;
        default:
            luaL_error(L, "the result is a %s, which JSON cannot carry", luaL_typename(L, index));
    }
    e->outcome.text = json;
}
