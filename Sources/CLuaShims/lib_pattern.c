// Compiling patterns. Matching them is in lib_match.c.
#include "pattern.h"

#include <lauxlib.h>
#include <string.h>

#include "libraries.h"
#include "pattern_items.h"

// MARK: Bytes and classes

enum {
    traitLower = 1 << 0,
    traitUpper = 1 << 1,
    traitDigit = 1 << 2,
    traitHexLetter = 1 << 3,
    traitPunctuation = 1 << 4,
    traitSpace = 1 << 5,
    traitControl = 1 << 6,
    traitZero = 1 << 7,
};

/// What each byte is, in the C locale: independent of the process's locale, which is not the scripts' affair.
const uint8_t rl_traits_of_byte[256] = {
    [0] = traitControl | traitZero,
    [1 ... 8] = traitControl,
    [9 ... 13] = traitControl | traitSpace,
    [14 ... 31] = traitControl,
    [' '] = traitSpace,
    ['!' ... '/'] = traitPunctuation,
    ['0' ... '9'] = traitDigit,
    [':' ... '@'] = traitPunctuation,
    ['A' ... 'F'] = traitUpper | traitHexLetter,
    ['G' ... 'Z'] = traitUpper,
    ['[' ... '`'] = traitPunctuation,
    ['a' ... 'f'] = traitLower | traitHexLetter,
    ['g' ... 'z'] = traitLower,
    ['{' ... '~'] = traitPunctuation,
    [127] = traitControl,
};

/// The traits of class letter `letter` (lower case), or 0 where it names no class.
static uint16_t traits_of_class(char letter) {
    switch (letter) {
    case 'a': return traitLower | traitUpper;
    case 'c': return traitControl;
    case 'd': return traitDigit;
    case 'g': return traitLower | traitUpper | traitDigit | traitPunctuation;
    case 'l': return traitLower;
    case 'p': return traitPunctuation;
    case 's': return traitSpace;
    case 'u': return traitUpper;
    case 'w': return traitLower | traitUpper | traitDigit;
    case 'x': return traitDigit | traitHexLetter;
    case 'z': return traitZero;  // Not in the manual any more; Lua 5.4 still takes it.
    default: return 0;
    }
}

static bool is_upper(char byte) {
    return byte >= 'A' && byte <= 'Z';
}

static void set_add(rl_byte_set *set, unsigned first, unsigned last) {
    for (unsigned byte = first; byte <= last; byte++) set->bits[byte >> 6] |= UINT64_C(1) << (byte & 63);
}

/// Adds what `%letter` means inside a set: a class, or the byte itself.
static void set_add_escaped(rl_byte_set *set, char letter) {
    uint16_t traits = traits_of_class(is_upper(letter) ? (char)(letter + 32) : letter);
    if (traits == 0) {
        set_add(set, (unsigned char)letter, (unsigned char)letter);
        return;
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        if (((rl_traits_of_byte[byte] & traits) != 0) != is_upper(letter)) set_add(set, byte, byte);
    }
}

bool rl_pattern_is_plain(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        switch (text[i]) {
        case '^': case '$': case '*': case '+': case '?': case '.': case '(': case ')': case '[': case '%': case '-':
            return false;
        default:
            break;
        }
    }
    return true;
}

// MARK: Compiling

typedef struct rl_compiler {
    lua_State *L;
    rl_pattern *pattern;
    rl_byte_set *nextSet;
    const char *at, *end;
    /// Captures that are open, innermost last.
    uint8_t open[RL_MAXIMUM_CAPTURES];
    int openCount;
} rl_compiler;

static rl_pattern_item *new_item(rl_compiler *compiler, uint8_t op) {
    rl_pattern_item *item = &compiler->pattern->items[compiler->pattern->itemCount++];
    memset(item, 0, sizeof *item);
    item->op = op;
    return item;
}

/// Reads a set; `at` stands behind its `[`. First finds the closing `]`, which is one that is neither the first thing
/// in the set nor escaped; then reads what is between.
static const rl_byte_set *read_set_mayraise(rl_compiler *compiler) {
    const char *p = compiler->at;
    bool complement = p < compiler->end && *p == '^';
    if (complement) p++;
    const char *first = p;
    do {
        if (p == compiler->end) luaL_error(compiler->L, "malformed pattern (missing ']')");
        if (*p++ == '%' && p < compiler->end) p++;
    } while (p == compiler->end || *p != ']');
    const char *close = p;

    rl_byte_set *set = compiler->nextSet++;
    memset(set, 0, sizeof *set);
    for (p = first; p < close; p++) {
        if (*p == '%') {
            p++;
            set_add_escaped(set, *p);
        } else if (p + 2 < close && p[1] == '-') {
            if ((unsigned char)p[0] <= (unsigned char)p[2]) set_add(set, (unsigned char)p[0], (unsigned char)p[2]);
            p += 2;
        } else {
            set_add(set, (unsigned char)*p, (unsigned char)*p);
        }
    }
    if (complement) {
        for (int i = 0; i < 4; i++) set->bits[i] = ~set->bits[i];
    }
    compiler->at = close + 1;
    return set;
}

/// Reads what follows a `%`. True where it made an item that may be quantified.
static bool read_escape_mayraise(rl_compiler *compiler) {
    lua_State *L = compiler->L;
    if (compiler->at == compiler->end) luaL_error(L, "malformed pattern (ends with '%%')");
    char letter = *compiler->at++;
    if (letter == 'b') {
        if (compiler->end - compiler->at < 2) luaL_error(L, "malformed pattern (missing arguments to '%%b')");
        rl_pattern_item *item = new_item(compiler, opBalance);
        item->a = (uint8_t)*compiler->at++;
        item->b = (uint8_t)*compiler->at++;
        return false;
    }
    if (letter == 'f') {
        if (compiler->at == compiler->end || *compiler->at != '[') {
            luaL_error(L, "missing '[' after '%%f' in pattern");
        }
        compiler->at++;
        const rl_byte_set *set = read_set_mayraise(compiler);
        new_item(compiler, opFrontier)->set = set;
        return false;
    }
    if (letter >= '0' && letter <= '9') {
        int number = letter - '1';
        bool closed = number >= 0 && number < compiler->pattern->captureCount;
        for (int i = 0; i < compiler->openCount; i++) closed = closed && compiler->open[i] != number;
        if (!closed) luaL_error(L, "invalid capture index %%%d in pattern", number + 1);
        // A position capture has no text that could come again.
        bool isPosition = compiler->pattern->captures[number].start != NULL;
        new_item(compiler, isPosition ? opNever : opCapture)->a = (uint8_t)number;
        return false;
    }
    uint16_t traits = traits_of_class(is_upper(letter) ? (char)(letter + 32) : letter);
    rl_pattern_item *item = new_item(compiler, traits ? opClass : opByte);
    item->a = (uint8_t)letter;
    item->traits = traits;
    item->complement = is_upper(letter);
    return true;
}

/// `(` or `()`. While compiling, a capture's `start` is not NULL where it is a position capture.
static void read_open_mayraise(rl_compiler *compiler) {
    rl_pattern *pattern = compiler->pattern;
    if (pattern->captureCount == RL_MAXIMUM_CAPTURES) luaL_error(compiler->L, "too many captures");
    uint8_t number = (uint8_t)pattern->captureCount++;
    if (compiler->at < compiler->end && *compiler->at == ')') {
        compiler->at++;
        pattern->captures[number].start = compiler->at;
        new_item(compiler, opPosition)->a = number;
    } else {
        pattern->captures[number].start = NULL;
        compiler->open[compiler->openCount++] = number;
        new_item(compiler, opOpen)->a = number;
    }
}

static void read_items_mayraise(rl_compiler *compiler) {
    while (compiler->at < compiler->end) {
        char byte = *compiler->at++;
        switch (byte) {
        case '(':
            read_open_mayraise(compiler);
            continue;
        case ')':
            if (compiler->openCount == 0) luaL_error(compiler->L, "invalid pattern capture");
            new_item(compiler, opClose)->a = compiler->open[--compiler->openCount];
            continue;
        case '$':
            if (compiler->at == compiler->end) {
                new_item(compiler, opAtEnd);
                continue;
            }
            new_item(compiler, opByte)->a = '$';
            break;
        case '.':
            new_item(compiler, opAny);
            break;
        case '[': {
            const rl_byte_set *set = read_set_mayraise(compiler);
            new_item(compiler, opSet)->set = set;
            break;
        }
        case '%':
            if (!read_escape_mayraise(compiler)) continue;
            break;
        default:
            new_item(compiler, opByte)->a = (uint8_t)byte;
            break;
        }
        if (compiler->at < compiler->end) {
            char next = *compiler->at;
            if (next == '*' || next == '+' || next == '-' || next == '?') {
                compiler->pattern->items[compiler->pattern->itemCount - 1].quantifier = next;
                compiler->at++;
            }
        }
    }
}

void rl_pattern_compile_mayraise(
    lua_State *L, rl_pattern *pattern, const char *text, size_t length, bool heedsAnchor, rl_pattern_storage *storage
) {
    if (length > RL_MAXIMUM_PATTERN_BYTES) {
        luaL_error(L, "pattern too long (limit %d bytes)", (int)RL_MAXIMUM_PATTERN_BYTES);
    }
    rl_tick(L, length + 1);
    size_t setCount = 0;
    for (size_t i = 0; i < length; i++) setCount += text[i] == '[';

    // No byte of the text makes more than one item; DONE is one more.
    pattern->itemCount = 0;
    pattern->captureCount = 0;
    pattern->work = 0;
    rl_byte_set *sets;
    if (storage != NULL && length < sizeof storage->items / sizeof storage->items[0] &&
        setCount <= sizeof storage->sets / sizeof storage->sets[0]) {
        pattern->items = storage->items;
        sets = storage->sets;
        lua_pushnil(L);  // Stack: … nil
    } else {
        size_t itemBytes = (length + 1) * sizeof(rl_pattern_item);
        pattern->items = lua_newuserdatauv(L, itemBytes + setCount * sizeof(rl_byte_set), 0);  // Stack: … userdata
        sets = (rl_byte_set *)(void *)((char *)pattern->items + itemBytes);
    }

    pattern->anchored = heedsAnchor && length > 0 && text[0] == '^';
    rl_compiler compiler = {
        .L = L, .pattern = pattern, .nextSet = sets, .at = text + pattern->anchored, .end = text + length};
    read_items_mayraise(&compiler);
    if (compiler.openCount > 0) luaL_error(L, "malformed pattern (unfinished capture)");
    new_item(&compiler, opDone);

    const rl_pattern_item *first = pattern->items;
    while (first->op == opOpen) first++;
    pattern->hasFirstByte = first->op == opByte && (first->quantifier == 0 || first->quantifier == '+');
    pattern->firstByte = first->a;
}
