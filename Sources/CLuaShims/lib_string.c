// The string library besides searching and formatting, and the metatable of strings.
#include <lualib.h>
#include <stdint.h>
#include <string.h>

#include "libraries.h"

// MARK: Positions

size_t rl_start_position(lua_Integer position, size_t length) {
    if (position > 0) return (size_t)position;
    if (position == 0 || position < -(lua_Integer)length) return 1;
    return length + (size_t)position + 1;
}

size_t rl_end_position(lua_Integer position, size_t length) {
    if (position > (lua_Integer)length) return length;
    if (position >= 0) return (size_t)position;
    if (position < -(lua_Integer)length) return 0;
    return length + (size_t)position + 1;
}

/// Charges for bytes that are copied, not looked at.
static void charge_copy_mayraise(lua_State *L, size_t bytes) {
    rl_tick(L, bytes / 64 + 1);
}

static void check_result_size_mayraise(lua_State *L, size_t bytes) {
    if (bytes > RL_MAXIMUM_RESULT_BYTES) {
        luaL_error(L, "result too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
}

// MARK: Bytes and parts

/// Stack: text → … length
static int string_len(lua_State *L) {
    size_t length;
    luaL_checklstring(L, 1, &length);
    lua_pushinteger(L, (lua_Integer)length);
    return 1;
}

/// Stack: text first [last] → … part
static int string_sub(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    size_t first = rl_start_position(luaL_checkinteger(L, 2), length);
    size_t last = rl_end_position(luaL_optinteger(L, 3, -1), length);
    if (first > last) {
        lua_pushliteral(L, "");
        return 1;
    }
    charge_copy_mayraise(L, last - first + 1);
    lua_pushlstring(L, text + first - 1, last - first + 1);
    return 1;
}

/// Stack: text [first [last]] → … bytes…
static int string_byte(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    lua_Integer from = luaL_optinteger(L, 2, 1);
    size_t first = rl_start_position(from, length);
    size_t last = rl_end_position(luaL_optinteger(L, 3, from), length);
    if (first > last) return 0;
    size_t count = last - first + 1;
    if (count >= INT32_MAX) return luaL_error(L, "string slice too long");
    rl_tick(L, count);
    luaL_checkstack(L, (int)count, "string slice too long");
    for (size_t i = 0; i < count; i++) lua_pushinteger(L, (unsigned char)text[first - 1 + i]);
    return (int)count;
}

/// Stack: bytes… → … text
static int string_char(lua_State *L) {
    int count = lua_gettop(L);
    rl_tick(L, (size_t)count);
    luaL_Buffer buffer;
    char *out = luaL_buffinitsize(L, &buffer, (size_t)count);
    for (int i = 1; i <= count; i++) {
        lua_Integer byte = luaL_checkinteger(L, i);
        luaL_argcheck(L, byte >= 0 && byte <= UINT8_MAX, i, "value out of range");
        out[i - 1] = (char)(unsigned char)byte;
    }
    luaL_pushresultsize(&buffer, (size_t)count);
    return 1;
}

// MARK: Whole strings

/// Makes a string of the same length, byte by byte. `byteAt` says what stands at `i`.
///
///     Stack: text → … result
static int map_bytes(lua_State *L, char (*byteAt)(const char *text, size_t length, size_t i)) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    check_result_size_mayraise(L, length);
    rl_tick(L, length / 4 + 1);
    luaL_Buffer buffer;
    char *out = luaL_buffinitsize(L, &buffer, length);
    for (size_t i = 0; i < length; i++) out[i] = byteAt(text, length, i);
    luaL_pushresultsize(&buffer, length);
    return 1;
}

static inline char lower_byte(const char *text, size_t length, size_t i) {
    (void)length;
    return text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
}

static inline char upper_byte(const char *text, size_t length, size_t i) {
    (void)length;
    return text[i] >= 'a' && text[i] <= 'z' ? (char)(text[i] - 32) : text[i];
}

static inline char reversed_byte(const char *text, size_t length, size_t i) {
    return text[length - 1 - i];
}

static int string_lower(lua_State *L) { return map_bytes(L, lower_byte); }
static int string_upper(lua_State *L) { return map_bytes(L, upper_byte); }
static int string_reverse(lua_State *L) { return map_bytes(L, reversed_byte); }

/// Stack: text count [separator] → … result
static int string_rep(lua_State *L) {
    size_t length, separatorLength;
    const char *text = luaL_checklstring(L, 1, &length);
    lua_Integer count = luaL_checkinteger(L, 2);
    const char *separator = luaL_optlstring(L, 3, "", &separatorLength);
    if (count <= 0 || length + separatorLength == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    // One unit is a text and its separator; the last text has none. Neither is longer than the state's memory, so the
    // sum cannot wrap.
    size_t unit = length + separatorLength;
    if ((lua_Unsigned)count > (RL_MAXIMUM_RESULT_BYTES + separatorLength) / unit) {
        return luaL_error(L, "result too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
    size_t total = (size_t)count * unit - separatorLength;
    charge_copy_mayraise(L, total);
    luaL_Buffer buffer;
    char *out = luaL_buffinitsize(L, &buffer, total);
    if (total > 0) {
        // The first unit, then copies of what is there already, doubling.
        size_t filled = unit < total ? unit : total;
        memcpy(out, text, length < filled ? length : filled);
        if (filled > length) memcpy(out + length, separator, filled - length);
        while (filled < total) {
            size_t more = filled < total - filled ? filled : total - filled;
            memcpy(out + filled, out, more);
            filled += more;
        }
    }
    luaL_pushresultsize(&buffer, total);
    return 1;
}

// MARK: Packing: stock functions, with their work and results bounded beforehand

/// Goes on as the stock function in upvalue 1, in this very frame, so that its errors name function and line as usual.
///
///     Stack: arguments… → … results…
static int call_stock(lua_State *L) {
    return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

/// The bytes that the `c[n]` items of a pack format ask for, or more than the limit where it is more.
static size_t packed_characters(const char *format, size_t length) {
    size_t sum = 0;
    for (size_t i = 0; i < length && sum <= RL_MAXIMUM_RESULT_BYTES; i++) {
        if (format[i] != 'c') continue;
        size_t count = 0;
        while (i + 1 < length && format[i + 1] >= '0' && format[i + 1] <= '9' && count <= RL_MAXIMUM_RESULT_BYTES) {
            count = count * 10 + (size_t)(format[++i] - '0');
        }
        sum += count;
    }
    return sum;
}

/// Stack: format values… → … text
static int string_pack(lua_State *L) {
    size_t formatLength;
    const char *format = luaL_checklstring(L, 1, &formatLength);
    rl_tick(L, formatLength * 8 + 1);
    // Numbers and paddings take at most 16 bytes an item; strings come whole, once each.
    size_t total = formatLength * 16 + packed_characters(format, formatLength);
    check_result_size_mayraise(L, total);
    for (int i = 2; i <= lua_gettop(L); i++) {
        if (lua_type(L, i) == LUA_TSTRING) total += lua_rawlen(L, i);
        check_result_size_mayraise(L, total);
    }
    rl_tick(L, total / 16 + 1);
    return call_stock(L);
}

/// packsize and unpack: linear in the format; what unpack copies is no longer than its string.
/// Stack: format [text [position]] → … results…
static int string_unpack(lua_State *L) {
    size_t formatLength;
    luaL_checklstring(L, 1, &formatLength);
    rl_tick(L, formatLength * 8 + 1);
    if (lua_type(L, 2) == LUA_TSTRING) charge_copy_mayraise(L, lua_rawlen(L, 2));
    return call_stock(L);
}

// MARK: The metatable of strings

/// A stock arithmetic metamethod, charged for reading its operands as numbers.
/// Stack: a b → … result
static int string_arithmetic(lua_State *L) {
    size_t cost = 1;
    for (int i = 1; i <= 2; i++) {
        if (lua_type(L, i) == LUA_TSTRING) cost += lua_rawlen(L, i) / 2;
    }
    rl_tick(L, cost);
    return call_stock(L);
}

/// Wraps the function `name` of the table at the top in `wrapper`, which gets it as upvalue 1.
///
///     Stack: … table → … table
static void wrap_stock_mayraise(lua_State *L, const char *name, lua_CFunction wrapper) {
    lua_getfield(L, -1, name);                // Stack: … table stock
    lua_pushcclosure(L, wrapper, 1);          // Stack: … table wrapped
    lua_setfield(L, -2, name);                // Stack: … table
}

void rl_open_string_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"byte", string_byte},       {"char", string_char}, {"len", string_len}, {"lower", string_lower},
        {"reverse", string_reverse}, {"rep", string_rep},   {"sub", string_sub}, {"upper", string_upper},
        {NULL, NULL},
    };
    static const char *const arithmetic[] = {"__add", "__sub", "__mul", "__mod", "__pow", "__div", "__idiv", "__unm"};
    luaL_checkstack(L, 6, NULL);
    lua_pushcfunction(L, luaopen_string);
    lua_call(L, 0, 1);                        // Stack: … string
    luaL_setfuncs(L, functions, 0);
    rl_add_search_mayraise(L);
    rl_add_format_mayraise(L);
    lua_pushnil(L);
    lua_setfield(L, -2, "dump");
    wrap_stock_mayraise(L, "pack", string_pack);
    wrap_stock_mayraise(L, "packsize", string_unpack);
    wrap_stock_mayraise(L, "unpack", string_unpack);

    // luaopen_string made the metatable, with __index = the table at the top.
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);                  // Stack: … string "" metatable
    for (size_t i = 0; i < sizeof arithmetic / sizeof arithmetic[0]; i++) {
        wrap_stock_mayraise(L, arithmetic[i], string_arithmetic);
    }
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);                            // Stack: … string
}
