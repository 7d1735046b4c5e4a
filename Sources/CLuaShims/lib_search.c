// find, match, gmatch and gsub.
#include <string.h>

#include "libraries.h"
#include "pattern.h"

// MARK: Captures

/// Pushes capture `number` (from 0) of a match; number 0 of a pattern without captures is the whole match.
///
///     Stack: … → … (text | position)
static void push_capture_mayraise(
    lua_State *L, const rl_pattern *pattern, rl_subject subject, rl_subject match, int number
) {
    if (number >= pattern->captureCount) {
        if (number != 0) luaL_error(L, "invalid capture index %%%d", number + 1);
        lua_pushlstring(L, match.start, (size_t)(match.end - match.start));
        return;
    }
    rl_capture capture = pattern->captures[number];
    if (capture.end == NULL) {
        lua_pushinteger(L, capture.start - subject.start + 1);
    } else {
        lua_pushlstring(L, capture.start, (size_t)(capture.end - capture.start));
    }
}

/// Pushes all captures, or the whole match where there are none. Answers how many.
///
///     Stack: … → … captures…
static int push_captures_mayraise(lua_State *L, rl_pattern *pattern, rl_subject subject, rl_subject match) {
    int count = pattern->captureCount > 0 ? pattern->captureCount : 1;
    luaL_checkstack(L, count, "too many captures");
    for (int i = 0; i < count; i++) {
        push_capture_mayraise(L, pattern, subject, match, i);
        pattern->work += 4 + (lua_type(L, -1) == LUA_TSTRING ? lua_rawlen(L, -1) / 16 : 0);
    }
    if (pattern->work >= RL_TICK_BATCH) rl_pattern_settle_mayraise(L, pattern);
    return count;
}

static rl_subject check_subject_mayraise(lua_State *L, int index) {
    size_t length;
    const char *text = luaL_checklstring(L, index, &length);
    return (rl_subject){.start = text, .end = text + length};
}

// MARK: find and match

/// Where `needle` first occurs in `within`, or NULL.
static const char *find_plain_mayraise(lua_State *L, rl_subject within, const char *needle, size_t length) {
    if (length == 0) return within.start;
    size_t uncharged = 0;
    const char *p = within.start;
    while ((size_t)(within.end - p) >= length) {
        const char *candidate = memchr(p, needle[0], (size_t)(within.end - p) - length + 1);
        uncharged += (size_t)((candidate != NULL ? candidate : within.end) - p) / 16 + 2;
        if (candidate == NULL) break;
        // Byte by byte, so that what is charged is what was compared: a needle of near misses is quadratic.
        size_t same = 1;
        while (same < length && candidate[same] == needle[same]) {
            same++;
            if ((same & 1023) == 0) rl_tick(L, 1024);
        }
        if (same == length) {
            rl_tick(L, uncharged + (same & 1023));
            return candidate;
        }
        uncharged += same & 1023;
        if (uncharged >= RL_TICK_BATCH) {
            rl_tick(L, uncharged);
            uncharged = 0;
        }
        p = candidate + 1;
    }
    rl_tick(L, uncharged + 1);
    return NULL;
}

/// Stack: subject pattern [init [plain]] → … results
static int find_or_match(lua_State *L, bool isFind) {
    rl_subject subject = check_subject_mayraise(L, 1);
    size_t subjectLength = (size_t)(subject.end - subject.start);
    size_t patternLength;
    const char *text = luaL_checklstring(L, 2, &patternLength);
    size_t init = rl_start_position(luaL_optinteger(L, 3, 1), subjectLength) - 1;
    if (init > subjectLength) {
        luaL_pushfail(L);
        return 1;
    }
    const char *from = subject.start + init;

    if (isFind && (lua_toboolean(L, 4) || rl_pattern_is_plain(text, patternLength))) {
        rl_subject within = {.start = from, .end = subject.end};
        const char *found = find_plain_mayraise(L, within, text, patternLength);
        if (found == NULL) {
            luaL_pushfail(L);
            return 1;
        }
        lua_pushinteger(L, found - subject.start + 1);
        lua_pushinteger(L, found - subject.start + (lua_Integer)patternLength);
        return 2;
    }

    rl_pattern pattern;
    rl_pattern_storage storage;
    rl_pattern_compile_mayraise(L, &pattern, text, patternLength, true, &storage);
    rl_subject match;
    int count;
    if (!rl_pattern_search_mayraise(L, &pattern, subject, from, NULL, &match)) {
        luaL_pushfail(L);
        count = 1;
    } else if (isFind) {
        lua_pushinteger(L, match.start - subject.start + 1);
        lua_pushinteger(L, match.end - subject.start);
        count = pattern.captureCount == 0 ? 2 : 2 + push_captures_mayraise(L, &pattern, subject, match);
    } else {
        count = push_captures_mayraise(L, &pattern, subject, match);
    }
    rl_pattern_settle_mayraise(L, &pattern);
    return count;
}

static int string_find(lua_State *L) {
    return find_or_match(L, true);
}

static int string_match(lua_State *L) {
    return find_or_match(L, false);
}

// MARK: gmatch

/// Where a gmatch loop stands. Lives in a userdata; the closure's other upvalues keep the texts alive.
typedef struct rl_gmatch {
    rl_subject subject;
    const char *from;
    /// The end of the last match: the next one must not end there.
    const char *lastEnd;
    rl_pattern pattern;
} rl_gmatch;

/// The iterator. Upvalues: subject, pattern, rl_gmatch, the pattern's items.
/// Stack: ignored… → captures…
static int gmatch_next(lua_State *L) {
    rl_gmatch *state = lua_touserdata(L, lua_upvalueindex(3));
    rl_subject match;
    lua_settop(L, 0);
    if (state->from == NULL) return 0;
    int count = 0;
    if (rl_pattern_search_mayraise(L, &state->pattern, state->subject, state->from, state->lastEnd, &match)) {
        state->from = state->lastEnd = match.end;
        count = push_captures_mayraise(L, &state->pattern, state->subject, match);
    } else {
        state->from = NULL;
    }
    rl_pattern_settle_mayraise(L, &state->pattern);
    return count;
}

/// Stack: subject pattern [init] → … iterator
static int string_gmatch(lua_State *L) {
    rl_subject subject = check_subject_mayraise(L, 1);
    size_t subjectLength = (size_t)(subject.end - subject.start);
    size_t patternLength;
    const char *text = luaL_checklstring(L, 2, &patternLength);
    size_t init = rl_start_position(luaL_optinteger(L, 3, 1), subjectLength) - 1;
    lua_settop(L, 2);                                                        // Stack: subject pattern
    rl_gmatch *state = lua_newuserdatauv(L, sizeof *state, 0);               // Stack: subject pattern state
    state->subject = subject;
    state->from = init > subjectLength ? NULL : subject.start + init;
    state->lastEnd = NULL;
    rl_pattern_compile_mayraise(L, &state->pattern, text, patternLength, false, NULL);
    // Stack: subject pattern state items
    lua_pushcclosure(L, gmatch_next, 4);                                     // Stack: iterator
    return 1;
}

// MARK: gsub

typedef struct rl_gsub {
    rl_pattern pattern;
    rl_pattern_storage storage;
    rl_subject subject;
    luaL_Buffer result;
    size_t resultLength;
} rl_gsub;

static void append_mayraise(lua_State *L, rl_gsub *gsub, const char *bytes, size_t length) {
    if (length == 0) return;
    if (length > RL_MAXIMUM_RESULT_BYTES - gsub->resultLength) {
        luaL_error(L, "result too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
    gsub->resultLength += length;
    gsub->pattern.work += length / 32 + 1;
    luaL_addlstring(&gsub->result, bytes, length);
}

/// Appends the string at the top, which stands above the buffer's own slot, and pops it.
static void append_value_mayraise(lua_State *L, rl_gsub *gsub) {
    size_t length = lua_rawlen(L, -1);
    if (length > RL_MAXIMUM_RESULT_BYTES - gsub->resultLength) {
        luaL_error(L, "result too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
    }
    gsub->resultLength += length;
    gsub->pattern.work += length / 32 + 1;
    luaL_addvalue(&gsub->result);
}

/// Appends the replacement string with its `%` items filled in.
static void append_template_mayraise(lua_State *L, rl_gsub *gsub, rl_subject match) {
    size_t length;
    const char *p = lua_tolstring(L, 3, &length);
    const char *end = p + length;
    while (p < end) {
        const char *percent = memchr(p, '%', (size_t)(end - p));
        if (percent == NULL) break;
        append_mayraise(L, gsub, p, (size_t)(percent - p));
        gsub->pattern.work += 2;
        char letter = percent + 1 < end ? percent[1] : '\0';
        if (letter == '%') {
            append_mayraise(L, gsub, "%", 1);
        } else if (letter == '0') {
            append_mayraise(L, gsub, match.start, (size_t)(match.end - match.start));
        } else if (letter >= '1' && letter <= '9') {
            int number = letter - '1';
            if (number >= gsub->pattern.captureCount && number != 0) {
                luaL_error(L, "invalid capture index %%%d in replacement string", number + 1);
            }
            push_capture_mayraise(L, &gsub->pattern, gsub->subject, match, number);
            lua_tolstring(L, -1, NULL);  // A position becomes its digits.
            append_value_mayraise(L, gsub);
        } else {
            luaL_error(L, "invalid use of '%%' in replacement string");
        }
        if (gsub->pattern.work >= RL_TICK_BATCH) rl_pattern_settle_mayraise(L, &gsub->pattern);
        p = percent + 2;
    }
    append_mayraise(L, gsub, p, (size_t)(end - p));
}

/// Appends what replaces the match. False where the match stays as it is.
static bool append_replacement_mayraise(lua_State *L, rl_gsub *gsub, rl_subject match, int kind) {
    switch (kind) {
    case LUA_TFUNCTION: {
        lua_pushvalue(L, 3);
        int count = push_captures_mayraise(L, &gsub->pattern, gsub->subject, match);
        lua_call(L, count, 1);
        break;
    }
    case LUA_TTABLE:
        push_capture_mayraise(L, &gsub->pattern, gsub->subject, match, 0);
        lua_gettable(L, 3);
        break;
    default:
        append_template_mayraise(L, gsub, match);
        return true;
    }
    // Stack: … replacement
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        append_mayraise(L, gsub, match.start, (size_t)(match.end - match.start));
        return false;
    }
    if (!lua_isstring(L, -1)) luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    lua_tolstring(L, -1, NULL);
    append_value_mayraise(L, gsub);
    return true;
}

/// Stack: subject pattern replacement [maximum] → … result count
static int string_gsub(lua_State *L) {
    rl_gsub gsub;
    gsub.subject = check_subject_mayraise(L, 1);
    gsub.resultLength = 0;
    size_t patternLength;
    const char *text = luaL_checklstring(L, 2, &patternLength);
    int kind = lua_type(L, 3);
    if (kind != LUA_TNUMBER && kind != LUA_TSTRING && kind != LUA_TFUNCTION && kind != LUA_TTABLE) {
        return luaL_typeerror(L, 3, "string/function/table");
    }
    lua_Integer maximum = luaL_optinteger(L, 4, (lua_Integer)(gsub.subject.end - gsub.subject.start) + 1);
    lua_settop(L, 3);                                                        // Stack: subject pattern replacement
    if (kind == LUA_TNUMBER) lua_tolstring(L, 3, NULL);
    rl_pattern_compile_mayraise(L, &gsub.pattern, text, patternLength, true, &gsub.storage);
    // Stack: subject pattern replacement items
    luaL_buffinit(L, &gsub.result);

    const char *from = gsub.subject.start, *lastEnd = NULL;
    lua_Integer count = 0;
    bool changed = false;
    rl_subject match;
    while (count < maximum &&
           rl_pattern_search_mayraise(L, &gsub.pattern, gsub.subject, from, lastEnd, &match)) {
        append_mayraise(L, &gsub, from, (size_t)(match.start - from));
        changed = append_replacement_mayraise(L, &gsub, match, kind) || changed;
        if (gsub.pattern.work >= RL_TICK_BATCH) rl_pattern_settle_mayraise(L, &gsub.pattern);
        from = lastEnd = match.end;
        count++;
        if (gsub.pattern.anchored) break;
    }
    if (changed) append_mayraise(L, &gsub, from, (size_t)(gsub.subject.end - from));
    rl_pattern_settle_mayraise(L, &gsub.pattern);
    if (changed) {
        luaL_pushresult(&gsub.result);
    } else {
        lua_pushvalue(L, 1);
    }
    lua_pushinteger(L, count);
    return 2;
}

void rl_add_search_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"find", string_find}, {"match", string_match}, {"gmatch", string_gmatch}, {"gsub", string_gsub}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
