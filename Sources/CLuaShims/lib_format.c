// string.format, written anew so that work and result are bounded conversion by conversion: stock Lua would format
// 16 MiB of "%99.99f" in one go.
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "libraries.h"

/// Longest text of one number: "%99.99f" of the largest double has 309 digits, a sign, a point and 99 digits.
#define MAXIMUM_NUMBER_BYTES 512

typedef struct rl_formatter {
    lua_State *L;
    luaL_Buffer result;
    size_t resultLength;
    size_t work;
    /// The argument that the last conversion took.
    int argument;
} rl_formatter;

/// One conversion, taken apart.
typedef struct rl_conversion {
    /// As C's printf wants it, complete up to the letter.
    char specification[16];
    /// Behind the digits and flags of `specification`: where a length modifier and the letter go.
    size_t specificationLength;
    char letter;
    bool isBare;
    bool hasPrecision;
} rl_conversion;

static void account_mayraise(rl_formatter *formatter, size_t bytes) {
    if (bytes > RL_MAXIMUM_RESULT_BYTES - formatter->resultLength) {
        luaL_error(formatter->L, "result too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
    formatter->resultLength += bytes;
    formatter->work += bytes / 32 + 1;
    if (formatter->work >= RL_TICK_BATCH) {
        size_t work = formatter->work;
        formatter->work = 0;
        rl_tick(formatter->L, work);
    }
}

static void append_mayraise(rl_formatter *formatter, const char *bytes, size_t length) {
    account_mayraise(formatter, length);
    luaL_addlstring(&formatter->result, bytes, length);
}

// MARK: Reading a conversion

static bool is_digit(char byte) {
    return byte >= '0' && byte <= '9';
}

/// The flags that a conversion letter may have; NULL: there is no such conversion.
static const char *flags_of(char letter) {
    switch (letter) {
    case 'd': case 'i': return "-+0 ";
    case 'u': return "-0";
    case 'a': case 'A': case 'e': case 'E': case 'f': case 'g': case 'G': return "-+#0 ";
    case 'o': case 'x': case 'X': return "-#0";
    case 'c': case 'p': case 's': return "-";
    case 'q': return "";
    default: return NULL;
    }
}

/// Reads a conversion from `p`, behind its `%`. Answers where it ends.
static const char *read_conversion_mayraise(
    lua_State *L, const char *p, const char *end, rl_conversion *conversion
) {
    const char *start = p;
    while (p < end && memchr("-+#0 ", *p, 5) != NULL) p++;
    const char *flagsEnd = p;
    for (int i = 0; i < 2 && p < end && is_digit(*p); i++) p++;
    conversion->hasPrecision = p < end && *p == '.';
    if (conversion->hasPrecision) {
        p++;
        for (int i = 0; i < 2 && p < end && is_digit(*p); i++) p++;
    }
    conversion->isBare = p == start;
    conversion->letter = p < end ? *p : '\0';

    const char *allowed = flags_of(conversion->letter);
    bool isValid = allowed != NULL && flagsEnd - start <= 5;
    for (const char *flag = start; isValid && flag < flagsEnd; flag++) isValid = strchr(allowed, *flag) != NULL;
    if (conversion->letter == 'c' || conversion->letter == 'p') isValid = isValid && !conversion->hasPrecision;
    if (conversion->letter == 'q' && !conversion->isBare) luaL_error(L, "specifier '%%q' cannot have modifiers");
    if (!isValid) {
        size_t shown = (size_t)(p - start) + (p < end);
        if (shown > 20) shown = 20;
        lua_pushlstring(L, start, shown);
        luaL_error(L, "invalid conversion '%%%s' to 'format'", lua_tostring(L, -1));
    }
    conversion->specificationLength = (size_t)(p - start) + 1;
    conversion->specification[0] = '%';
    memcpy(conversion->specification + 1, start, (size_t)(p - start));
    return p + 1;
}

// MARK: Numbers

/// Ends the specification with `suffix`: length modifier and letter.
static const char *complete(rl_conversion *conversion, const char *suffix) {
    strcpy(conversion->specification + conversion->specificationLength, suffix);
    return conversion->specification;
}

// The specifications below come from read_conversion_mayraise, which lets through nothing but flags, at most two digits
// of width and of precision, so the output fits and the types are those named here.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

static void add_integer_mayraise(rl_formatter *formatter, rl_conversion *conversion) {
    lua_Integer value = luaL_checkinteger(formatter->L, formatter->argument);
    char suffix[] = {'l', 'l', conversion->letter, '\0'};
    char text[MAXIMUM_NUMBER_BYTES];
    int length = snprintf(text, sizeof text, complete(conversion, suffix), (long long)value);
    append_mayraise(formatter, text, (size_t)length);
}

static void add_float_mayraise(rl_formatter *formatter, rl_conversion *conversion) {
    lua_Number value = luaL_checknumber(formatter->L, formatter->argument);
    char suffix[] = {conversion->letter, '\0'};
    char text[MAXIMUM_NUMBER_BYTES];
    int length = snprintf(text, sizeof text, complete(conversion, suffix), value);
    formatter->work += 100 + (size_t)length * 4;
    append_mayraise(formatter, text, (size_t)length);
}

static void add_character_mayraise(rl_formatter *formatter, rl_conversion *conversion) {
    lua_Integer value = luaL_checkinteger(formatter->L, formatter->argument);
    char text[MAXIMUM_NUMBER_BYTES];
    int length = snprintf(text, sizeof text, complete(conversion, "c"), (int)(unsigned char)value);
    append_mayraise(formatter, text, (size_t)length);
}

static void add_pointer_mayraise(rl_formatter *formatter, rl_conversion *conversion) {
    luaL_checkany(formatter->L, formatter->argument);
    const void *value = lua_topointer(formatter->L, formatter->argument);
    char text[MAXIMUM_NUMBER_BYTES];
    int length = value != NULL ? snprintf(text, sizeof text, complete(conversion, "p"), value)
                               : snprintf(text, sizeof text, complete(conversion, "s"), "(null)");
    append_mayraise(formatter, text, (size_t)length);
}

// MARK: Strings

static void add_string_mayraise(rl_formatter *formatter, rl_conversion *conversion) {
    lua_State *L = formatter->L;
    luaL_checkany(L, formatter->argument);
    size_t length;
    const char *text = luaL_tolstring(L, formatter->argument, &length);   // Stack: … [buffer] text
    bool isWhole = conversion->isBare;
    if (!isWhole) {
        formatter->work += length / 16;
        luaL_argcheck(L, memchr(text, '\0', length) == NULL, formatter->argument, "string contains zeros");
        // Widths have two digits, so a text of 100 bytes needs no padding.
        isWhole = !conversion->hasPrecision && length >= 100;
    }
    if (isWhole) {
        account_mayraise(formatter, length);
        luaL_addvalue(&formatter->result);                                // Stack: … [buffer]
        return;
    }
    char padded[MAXIMUM_NUMBER_BYTES];
    int paddedLength = snprintf(padded, sizeof padded, complete(conversion, "s"), text);
    lua_pop(L, 1);                                                        // Stack: … [buffer]
    append_mayraise(formatter, padded, (size_t)paddedLength);
}

#pragma GCC diagnostic pop

/// A string as a literal that Lua reads back.
static void add_quoted_mayraise(rl_formatter *formatter, const char *text, size_t length) {
    append_mayraise(formatter, "\"", 1);
    size_t plainFrom = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        bool isControl = byte < 32 || byte == 127;
        if (byte != '"' && byte != '\\' && !isControl) {
            // What needs no escape goes in pieces, so that a long text is charged as it goes.
            if (i - plainFrom == RL_TICK_BATCH) {
                append_mayraise(formatter, text + plainFrom, i - plainFrom);
                plainFrom = i;
            }
            continue;
        }
        append_mayraise(formatter, text + plainFrom, i - plainFrom);
        plainFrom = i + 1;
        char escape[8];
        int escapeLength;
        if (!isControl || byte == '\n') {
            escapeLength = snprintf(escape, sizeof escape, "\\%c", byte);
        } else {
            // Three digits where another digit follows, so that it is not read as part of the escape.
            bool digitFollows = i + 1 < length && is_digit(text[i + 1]);
            escapeLength = snprintf(escape, sizeof escape, digitFollows ? "\\%03d" : "\\%d", byte);
        }
        append_mayraise(formatter, escape, (size_t)escapeLength);
    }
    append_mayraise(formatter, text + plainFrom, length - plainFrom);
    append_mayraise(formatter, "\"", 1);
}

/// A value as a literal that Lua reads back.
static void add_literal_mayraise(rl_formatter *formatter) {
    lua_State *L = formatter->L;
    int argument = formatter->argument;
    char text[MAXIMUM_NUMBER_BYTES];
    int length = 0;
    switch (lua_type(L, argument)) {
    case LUA_TSTRING: {
        size_t stringLength;
        const char *string = lua_tolstring(L, argument, &stringLength);
        add_quoted_mayraise(formatter, string, stringLength);
        return;
    }
    case LUA_TNUMBER:
        if (lua_isinteger(L, argument)) {
            lua_Integer value = lua_tointeger(L, argument);
            // The least integer has no decimal literal: its digits alone are one too many.
            length = value == LUA_MININTEGER ? snprintf(text, sizeof text, "0x%llx", (unsigned long long)value)
                                             : snprintf(text, sizeof text, "%lld", (long long)value);
        } else {
            lua_Number value = lua_tonumber(L, argument);
            if (isinf(value)) {
                length = snprintf(text, sizeof text, value > 0 ? "1e9999" : "-1e9999");
            } else if (isnan(value)) {
                length = snprintf(text, sizeof text, "(0/0)");
            } else {
                // Hexadecimal is exact; where the value is integral, so is this, and it reads as a float.
                length = snprintf(text, sizeof text, "%a", value);
            }
        }
        break;
    case LUA_TNIL:
        length = snprintf(text, sizeof text, "nil");
        break;
    case LUA_TBOOLEAN:
        length = snprintf(text, sizeof text, "%s", lua_toboolean(L, argument) ? "true" : "false");
        break;
    default:
        luaL_argerror(L, argument, "value has no literal form");
    }
    append_mayraise(formatter, text, (size_t)length);
}

// MARK: format

static void add_conversion_mayraise(rl_formatter *formatter, rl_conversion *conversion) {
    switch (conversion->letter) {
    case 'c':
        add_character_mayraise(formatter, conversion);
        break;
    case 'd': case 'i': case 'u': case 'o': case 'x': case 'X':
        add_integer_mayraise(formatter, conversion);
        break;
    case 'a': case 'A': case 'e': case 'E': case 'f': case 'g': case 'G':
        add_float_mayraise(formatter, conversion);
        break;
    case 'p':
        add_pointer_mayraise(formatter, conversion);
        break;
    case 'q':
        add_literal_mayraise(formatter);
        break;
    default:
        add_string_mayraise(formatter, conversion);
        break;
    }
}

/// Stack: format values… → … text
static int string_format(lua_State *L) {
    size_t length;
    const char *p = luaL_checklstring(L, 1, &length);
    const char *end = p + length;
    int top = lua_gettop(L);
    rl_formatter formatter = {.L = L, .resultLength = 0, .work = 1, .argument = 1};
    luaL_buffinit(L, &formatter.result);
    while (p < end) {
        const char *percent = memchr(p, '%', (size_t)(end - p));
        if (percent == NULL) break;
        append_mayraise(&formatter, p, (size_t)(percent - p));
        p = percent + 1;
        if (p < end && *p == '%') {
            append_mayraise(&formatter, "%", 1);
            p++;
            continue;
        }
        formatter.work += 20;
        if (++formatter.argument > top) return luaL_argerror(L, formatter.argument, "no value");
        rl_conversion conversion;
        p = read_conversion_mayraise(L, p, end, &conversion);
        add_conversion_mayraise(&formatter, &conversion);
    }
    append_mayraise(&formatter, p, (size_t)(end - p));
    rl_tick(L, formatter.work + 1);
    luaL_pushresult(&formatter.result);
    return 1;
}

void rl_add_format_mayraise(lua_State *L) {
    lua_pushcfunction(L, string_format);
    lua_setfield(L, -2, "format");
}
