// Instruction parameters: from JSON text straight onto the Lua stack.
//
// One pass over an array pushes its scalars; nested arrays and objects are found by their brackets and handed to
// rl_json_decode, which also says whether they are JSON.
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define RL_MAXIMUM_PARAMETERS 250

typedef struct cursor {
    const char *at;
    const char *end;
    const char *start;
} cursor;

static int fail_mayraise(lua_State *L, const cursor *c, const char *what) {
    return luaL_error(L, "the parameters are no JSON: %s at byte %d", what, (int)(c->at - c->start));
}

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')) c->at++;
}

static bool is_digit(const cursor *c) { return c->at < c->end && *c->at >= '0' && *c->at <= '9'; }

// MARK: Numbers

/// number = [ "-" ] int [ frac ] [ exp ] (RFC 8259 §6). Integral values that fit become integers.
static void push_number_mayraise(lua_State *L, cursor *c) {
    const char *start = c->at;
    bool negative = *c->at == '-', plain = true, fits = true;
    if (negative) c->at++;
    if (!is_digit(c)) fail_mayraise(L, c, "a digit is missing");
    uint64_t magnitude = 0;
    if (*c->at == '0') {
        c->at++;
        if (is_digit(c)) fail_mayraise(L, c, "a number starts with 0");
    }
    while (is_digit(c)) {
        unsigned digit = (unsigned)(*c->at++ - '0');
        if (magnitude > (UINT64_MAX - digit) / 10) fits = false;
        magnitude = magnitude * 10 + digit;
    }
    if (c->at < c->end && *c->at == '.') {
        c->at++;
        plain = false;
        if (!is_digit(c)) fail_mayraise(L, c, "a digit is missing");
        while (is_digit(c)) c->at++;
    }
    if (c->at < c->end && (*c->at == 'e' || *c->at == 'E')) {
        c->at++;
        plain = false;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) c->at++;
        if (!is_digit(c)) fail_mayraise(L, c, "a digit is missing");
        while (is_digit(c)) c->at++;
    }
    if (plain && fits && magnitude <= (uint64_t)INT64_MAX + (negative ? 1 : 0)) {
        lua_pushinteger(L, (lua_Integer)(negative ? 0 - magnitude : magnitude));
        return;
    }
    // strtod stops where the grammar did: an array's number is followed by a byte of the text that no number has.
    double value = strtod(start, NULL);
    lua_Integer integer;
    if (lua_numbertointeger(value, &integer) && (double)integer == value) {
        lua_pushinteger(L, integer);
    } else {
        lua_pushnumber(L, value);
    }
}

// MARK: Strings

/// Reads the four digits of `\uXXXX`; the cursor stands on the first.
static uint32_t read_hex_mayraise(lua_State *L, cursor *c) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char d = c->at < c->end ? *c->at : 0;
        if (d >= '0' && d <= '9') value = value * 16 + (uint32_t)(d - '0');
        else if (d >= 'a' && d <= 'f') value = value * 16 + (uint32_t)(d - 'a') + 10;
        else if (d >= 'A' && d <= 'F') value = value * 16 + (uint32_t)(d - 'A') + 10;
        else fail_mayraise(L, c, "\\u wants four hexadecimal digits");
        c->at++;
    }
    return value;
}

/// The cursor stands behind `\u`. Surrogates come in pairs (RFC 8259 §7), or they stand for nothing.
static size_t read_unicode_mayraise(lua_State *L, cursor *c, char *out) {
    uint32_t code = read_hex_mayraise(L, c);
    if (code >= 0xDC00 && code <= 0xDFFF) fail_mayraise(L, c, "half a surrogate pair");
    if (code >= 0xD800 && code <= 0xDBFF) {
        if (c->end - c->at < 2 || c->at[0] != '\\' || c->at[1] != 'u') fail_mayraise(L, c, "half a surrogate pair");
        c->at += 2;
        uint32_t low = read_hex_mayraise(L, c);
        if (low < 0xDC00 || low > 0xDFFF) fail_mayraise(L, c, "half a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    return rl_put_utf8(out, code);
}

/// Moves over bytes that stand for themselves in a string, eight at a time: not a quote, a backslash or a control
/// character. What it stops at may be one of them. At 64 KiB this was most of a call's time, byte by byte.
static const char *skip_plain(const char *at, const char *end) {
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t quote = word ^ ones * '"', backslash = word ^ ones * '\\';
        uint64_t found = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((word - ones * 0x20) & ~word);
        if ((found & highs) != 0) break;
        at += 8;
    }
    return at;
}

/// A string with escapes. The result is never longer than its text.   Stack: … → … string
static void push_escaped_mayraise(lua_State *L, cursor *c, const char *start, size_t room) {
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    luaL_Buffer buffer;
    char *out = luaL_buffinitsize(L, &buffer, room);
    size_t count = (size_t)(c->at - start);
    memcpy(out, start, count);
    while (*c->at != '"') {
        if (*c->at != '\\') {
            const char *run = c->at;
            c->at = skip_plain(run + 1, c->end);
            memcpy(out + count, run, (size_t)(c->at - run));
            count += (size_t)(c->at - run);
            continue;
        }
        c->at++;
        char letter = *c->at++;
        if (letter == 'u') {
            count += read_unicode_mayraise(L, c, out + count);
            continue;
        }
        size_t i = 0;
        while (i < sizeof(escapes) - 1 && escapes[i] != letter) i += 2;
        if (i >= sizeof(escapes) - 1) fail_mayraise(L, c, "an unknown escape");
        out[count++] = escapes[i + 1];
    }
    luaL_pushresultsize(&buffer, count);
}

/// Moves behind the string that the cursor stands in, onto its closing quote; answers whether it has escapes.
static bool find_quote_mayraise(lua_State *L, cursor *c, const char **firstEscape) {
    *firstEscape = NULL;
    while ((c->at = skip_plain(c->at, c->end)) < c->end && *c->at != '"') {
        if ((unsigned char)*c->at < 0x20) fail_mayraise(L, c, "a control character in a string");
        if (*c->at == '\\') {
            if (*firstEscape == NULL) *firstEscape = c->at;
            c->at++;
        }
        c->at++;
    }
    if (c->at >= c->end) {
        c->at = c->end;
        fail_mayraise(L, c, "a string without an end");
    }
    return *firstEscape != NULL;
}

/// The cursor stands on the opening quote.   Stack: … → … string
static void push_string_mayraise(lua_State *L, cursor *c) {
    const char *start = ++c->at, *firstEscape;
    if (find_quote_mayraise(L, c, &firstEscape)) {
        size_t room = (size_t)(c->at - start);
        cursor inner = {firstEscape, c->end, c->start};
        push_escaped_mayraise(L, &inner, start, room);
    } else {
        lua_pushlstring(L, start, (size_t)(c->at - start));
    }
    c->at++;
}

// MARK: Values

/// The cursor stands on `[` or `{`; it moves behind the bracket that closes it.   Stack: … → … value
static void push_nested_mayraise(lua_State *L, cursor *c) {
    const char *start = c->at;
    size_t depth = 0;
    do {
        if (c->at >= c->end) fail_mayraise(L, c, "a bracket is not closed");
        char byte = *c->at++;
        if (byte == '[' || byte == '{') {
            depth++;
        } else if (byte == ']' || byte == '}') {
            depth--;
        } else if (byte == '"') {
            const char *escape;
            find_quote_mayraise(L, c, &escape);
            c->at++;
        }
    } while (depth > 0);
    rl_json_decode(L, start, (size_t)(c->at - start));
}

static bool take_word(cursor *c, const char *word, size_t count) {
    if ((size_t)(c->end - c->at) < count || memcmp(c->at, word, count) != 0) return false;
    c->at += count;
    return true;
}

/// Stack: … → … value
static void push_value_mayraise(lua_State *L, cursor *c) {
    switch (c->at < c->end ? *c->at : 0) {
        case '"': push_string_mayraise(L, c); return;
        case '[':
        case '{': push_nested_mayraise(L, c); return;
        case 't':
            if (!take_word(c, "true", 4)) break;
            lua_pushboolean(L, true);
            return;
        case 'f':
            if (!take_word(c, "false", 5)) break;
            lua_pushboolean(L, false);
            return;
        case 'n':
            if (!take_word(c, "null", 4)) break;
            lua_pushnil(L);
            return;
        case '-':
        case '0' ... '9': push_number_mayraise(L, c); return;
        default: break;
    }
    fail_mayraise(L, c, "a value is missing");
}

static int push_array_mayraise(lua_State *L, cursor *c) {
    int count = 0;
    c->at++;
    skip_space(c);
    if (c->at < c->end && *c->at == ']') {
        c->at++;
        return 0;
    }
    for (;;) {
        if (count == RL_MAXIMUM_PARAMETERS) {
            luaL_error(L, "at most %d parameters can be passed by position", RL_MAXIMUM_PARAMETERS);
        }
        if ((count & 7) == 0) luaL_checkstack(L, 16, "too many parameters");
        push_value_mayraise(L, c);
        count++;
        skip_space(c);
        char byte = c->at < c->end ? *c->at : 0;
        if (byte != ',' && byte != ']') fail_mayraise(L, c, "',' or ']' is missing");
        c->at++;
        if (byte == ']') return count;
        skip_space(c);
    }
}

int rl_push_parameters_mayraise(lua_State *L, const char *text, size_t size) {
    rl_engine *e = rl_engine_of(L);
    rl_tick(L, size / 4);
    e->raising = rl_code_parameters;  // What raises from here to the end is no fault of a script.
    cursor c = {text, text + size, text};
    int count = 0;
    skip_space(&c);
    switch (c.at < c.end ? *c.at : 0) {
        case '[': count = push_array_mayraise(L, &c); break;
        case '{':
            push_nested_mayraise(L, &c);
            count = 1;
            break;
        case 'n':
            if (take_word(&c, "null", 4)) break;
            // fallthrough
        default: luaL_error(L, "the parameters are neither a JSON array (by position) nor an object (by name)");
    }
    skip_space(&c);
    if (c.at != c.end) fail_mayraise(L, &c, "something follows the parameters");
    e->raising = rl_code_none;
    return count;
}
