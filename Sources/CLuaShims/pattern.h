// Lua patterns (reference manual §6.4.1): compiled to a row of items, matched without recursion.
//
// A Lua pattern has no alternation and no repeated groups, so a way through it passes its items once, from left to
// right. Each quantified item thus has at most one open choice at a time, and the choice lives in the item itself:
//
//     pattern   (%a*)-(.-)$
//     items     OPEN  CLASS*  CLOSE  BYTE  OPEN  ANY-  CLOSE  AT-END  DONE
//                      └ low … at                 └ at …
//
// Failing means: give the latest item with an open choice its next end, and go on after it. Captures need no undoing,
// because every way to a use of a capture sets it again. Depth costs nothing; work is counted and charged.
#pragma once

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Most captures of one pattern, as in stock Lua.
#define RL_MAXIMUM_CAPTURES 32
/// Longest pattern. Longer texts are searched for with `string.find(s, text, init, true)`.
#define RL_MAXIMUM_PATTERN_BYTES ((size_t)64 << 10)
/// How many items one attempt at one start position may enter, besides 16 per byte of the subject: the honest need is a
/// few per byte, a catastrophic pattern on 26 bytes wants billions. 2^19 take 1 to 2 ms.
#define RL_MAXIMUM_STEPS ((size_t)1 << 19)

typedef struct rl_byte_set {
    uint64_t bits[4];
} rl_byte_set;

typedef struct rl_pattern_item {
    uint8_t op;
    /// 0, or one of `*` `+` `-` `?`; only on items that match a single byte.
    char quantifier;
    /// The byte of a BYTE; opening and closing byte of a BALANCE; the number of a capture, from 0.
    uint8_t a, b;
    /// Of a CLASS: the traits that match, and whether the class is a complement.
    uint16_t traits;
    bool complement;
    /// Of a SET or FRONTIER.
    const rl_byte_set *set;
    /// The open choice of a quantified item: it matches up to `at`, and could go back to `low` (greedy) or on (lazy).
    const char *low, *at;
    /// The item whose choice is tried after this one's are used up.
    struct rl_pattern_item *previous;
} rl_pattern_item;

typedef struct rl_capture {
    const char *start;
    /// NULL: a position capture.
    const char *end;
} rl_capture;

typedef struct rl_subject {
    const char *start, *end;
} rl_subject;

typedef struct rl_pattern {
    rl_pattern_item *items;
    size_t itemCount;
    /// Whether it began with `^` and was compiled to heed that.
    bool anchored;
    /// Whether every match begins with `firstByte`.
    bool hasFirstByte;
    uint8_t firstByte;
    int captureCount;
    rl_capture captures[RL_MAXIMUM_CAPTURES];
    /// Work done and not yet charged.
    size_t work;
} rl_pattern;

/// Room for the items of everyday patterns, in the caller's frame.
typedef struct rl_pattern_storage {
    rl_pattern_item items[24];
    rl_byte_set sets[6];
} rl_pattern_storage;

/// Compiles `text`, which must stay alive as long as the pattern. A malformed pattern raises here, even where stock
/// Lua would not have come to the malformed part. `heedsAnchor`: a leading `^` anchors (gmatch takes it as a byte).
/// Items live in `storage` where they fit (it may be NULL), else in a userdata.
///
///     Stack: … → … (userdata | nil), which keeps the items alive
void rl_pattern_compile_mayraise(
    lua_State *L, rl_pattern *pattern, const char *text, size_t length, bool heedsAnchor, rl_pattern_storage *storage);

/// The first match that starts at `from` or later (only at `from` where anchored) and does not end at `refusedEnd`
/// (NULL refuses nothing). Fills `captures`. False where there is none. Leaves the Lua stack alone.
bool rl_pattern_search_mayraise(
    lua_State *L, rl_pattern *pattern, rl_subject subject, const char *from, const char *refusedEnd, rl_subject *match);

/// Charges the work that is still uncharged. Call it when a library call ends.
void rl_pattern_settle_mayraise(lua_State *L, rl_pattern *pattern);

/// Whether the text has none of the bytes that mean something in a pattern.
bool rl_pattern_is_plain(const char *text, size_t length);
