// The utf8 library: the results of stock Lua, with every byte that is looked at charged. Only `char` and `charpattern`
// are stock: what they do is bounded by their arguments.
#include <lualib.h>
#include <stdbool.h>
#include <stdint.h>

#include "libraries.h"

/// Adds up bytes and charges them in batches.
static void count_mayraise(lua_State *L, size_t *work, size_t bytes) {
    *work += bytes;
    if (*work >= RL_TICK_BATCH) {
        size_t charged = *work;
        *work = 0;
        rl_tick(L, charged);
    }
}

static bool is_continuation(char byte) {
    return ((unsigned char)byte & 0xC0) == 0x80;
}

/// Reads one character. NULL where the bytes are no valid encoding. A sequence is at most six bytes (`isLax`: the
/// original UTF-8, up to 2^31), and the zero byte behind every Lua string ends one that is cut off.
static const char *decode(const char *p, bool isLax, uint32_t *code) {
    // The least code that may take this many continuation bytes.
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000};
    unsigned char first = (unsigned char)*p;
    if (first < 0x80) {
        *code = first;
        return p + 1;
    }
    int more = 0;
    for (unsigned char bits = first; bits & 0x40; bits = (unsigned char)(bits << 1)) more++;
    if (more == 0 || more > 5) return NULL;
    uint32_t value = first & (0x3Fu >> more);
    for (int i = 1; i <= more; i++) {
        if (!is_continuation(p[i])) return NULL;
        value = value << 6 | ((unsigned char)p[i] & 0x3F);
    }
    if (value < least[more]) return NULL;
    if (!isLax && (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))) return NULL;
    *code = value;
    return p + more + 1;
}

/// A position that may count from the end; 0 where that is before the start.
static lua_Integer absolute_position(lua_Integer position, size_t length) {
    if (position >= 0) return position;
    return position < -(lua_Integer)length ? 0 : (lua_Integer)length + position + 1;
}

/// Stack: text [first [last [lax]]] → … (length | nil position)
static int utf8_len(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    lua_Integer at = absolute_position(luaL_optinteger(L, 2, 1), length) - 1;
    lua_Integer last = absolute_position(luaL_optinteger(L, 3, -1), length) - 1;
    bool isLax = lua_toboolean(L, 4);
    luaL_argcheck(L, at >= 0 && at <= (lua_Integer)length, 2, "initial position out of bounds");
    luaL_argcheck(L, last < (lua_Integer)length, 3, "final position out of bounds");
    size_t work = 1;
    lua_Integer count = 0;
    while (at <= last) {
        uint32_t code;
        const char *next = decode(text + at, isLax, &code);
        if (next == NULL) {
            luaL_pushfail(L);
            lua_pushinteger(L, at + 1);
            return 2;
        }
        count_mayraise(L, &work, (size_t)(next - (text + at)));
        at = next - text;
        count++;
    }
    rl_tick(L, work);
    lua_pushinteger(L, count);
    return 1;
}

/// Stack: text [first [last [lax]]] → … codes…
static int utf8_codepoint(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    lua_Integer first = absolute_position(luaL_optinteger(L, 2, 1), length);
    lua_Integer last = absolute_position(luaL_optinteger(L, 3, first), length);
    bool isLax = lua_toboolean(L, 4);
    luaL_argcheck(L, first >= 1, 2, "out of bounds");
    luaL_argcheck(L, last <= (lua_Integer)length, 3, "out of bounds");
    if (first > last) return 0;
    if (last - first >= INT32_MAX) return luaL_error(L, "string slice too long");
    rl_tick(L, (size_t)(last - first) + 1);
    luaL_checkstack(L, (int)(last - first) + 1, "string slice too long");
    int count = 0;
    const char *end = text + last;
    for (const char *p = text + first - 1; p < end; count++) {
        uint32_t code;
        p = decode(p, isLax, &code);
        if (p == NULL) return luaL_error(L, "invalid UTF-8 code");
        lua_pushinteger(L, code);
    }
    return count;
}

/// Stack: text n [position] → … (position | nil)
static int utf8_offset(lua_State *L) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    lua_Integer n = luaL_checkinteger(L, 2);
    lua_Integer at = absolute_position(luaL_optinteger(L, 3, n >= 0 ? 1 : (lua_Integer)length + 1), length) - 1;
    luaL_argcheck(L, at >= 0 && at <= (lua_Integer)length, 3, "position out of bounds");
    size_t work = 1;
    if (n == 0) {
        for (; at > 0 && is_continuation(text[at]); at--) count_mayraise(L, &work, 1);
    } else {
        if (is_continuation(text[at])) return luaL_error(L, "initial position is a continuation byte");
        // The zero byte behind the text is no continuation, so going on stops there at the latest.
        for (; n < 0 && at > 0; n++) {
            do {
                at--;
                count_mayraise(L, &work, 1);
            } while (at > 0 && is_continuation(text[at]));
        }
        for (; n > 1 && at < (lua_Integer)length; n--) {
            do {
                at++;
                count_mayraise(L, &work, 1);
            } while (is_continuation(text[at]));
        }
    }
    rl_tick(L, work);
    if (n == 0 || n == 1) {
        lua_pushinteger(L, at + 1);
    } else {
        luaL_pushfail(L);
    }
    return 1;
}

/// Stack: text position → … [position code]
static int codes_next(lua_State *L, bool isLax) {
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    // A character's 1-based position is the 0-based one of the byte behind its first.
    lua_Unsigned at = (lua_Unsigned)lua_tointeger(L, 2);
    size_t work = 1;
    if (at < length) {
        for (; is_continuation(text[at]); at++) count_mayraise(L, &work, 1);
    }
    rl_tick(L, work);
    if (at >= length) return 0;
    uint32_t code;
    const char *next = decode(text + at, isLax, &code);
    if (next == NULL || is_continuation(*next)) return luaL_error(L, "invalid UTF-8 code");
    lua_pushinteger(L, (lua_Integer)at + 1);
    lua_pushinteger(L, code);
    return 2;
}

static int codes_next_strict(lua_State *L) { return codes_next(L, false); }
static int codes_next_lax(lua_State *L) { return codes_next(L, true); }

/// Stack: text [lax] → … next text 0
static int utf8_codes(lua_State *L) {
    const char *text = luaL_checkstring(L, 1);
    luaL_argcheck(L, !is_continuation(*text), 1, "invalid UTF-8 code");
    lua_pushcfunction(L, lua_toboolean(L, 2) ? codes_next_lax : codes_next_strict);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, 0);
    return 3;
}

void rl_open_utf8_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"codepoint", utf8_codepoint}, {"codes", utf8_codes}, {"len", utf8_len}, {"offset", utf8_offset}, {NULL, NULL},
    };
    lua_pushcfunction(L, luaopen_utf8);
    lua_call(L, 0, 1);                        // Stack: … utf8
    luaL_setfuncs(L, functions, 0);
}
