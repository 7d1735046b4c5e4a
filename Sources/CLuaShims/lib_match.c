// Matching compiled patterns. Compiling them is in lib_pattern.c.
#include <lauxlib.h>
#include <string.h>

#include "libraries.h"
#include "pattern.h"
#include "pattern_items.h"

static void charge_mayraise(lua_State *L, rl_pattern *pattern, size_t cost) {
    pattern->work += cost;
    if (pattern->work >= RL_TICK_BATCH) rl_pattern_settle_mayraise(L, pattern);
}

void rl_pattern_settle_mayraise(lua_State *L, rl_pattern *pattern) {
    size_t work = pattern->work;
    pattern->work = 0;
    if (work > 0) rl_tick(L, work);
}

static inline bool matches_byte(const rl_pattern_item *item, unsigned char byte) {
    switch (item->op) {
    case opAny: return true;
    case opByte: return byte == item->a;
    case opClass: return ((rl_traits_of_byte[byte] & item->traits) != 0) != item->complement;
    default: return rl_set_has(item->set, byte);
    }
}

/// Where the longest run of bytes that match `item` ends.
static const char *run_end_mayraise(
    lua_State *L, rl_pattern *pattern, const rl_pattern_item *item, const char *from, const char *end
) {
    const char *p = from;
    for (;;) {
        const char *slice = p;
        const char *sliceEnd = (size_t)(end - p) > RL_TICK_BATCH ? p + RL_TICK_BATCH : end;
        while (p < sliceEnd && matches_byte(item, (unsigned char)*p)) p++;
        charge_mayraise(L, pattern, (size_t)(p - slice));
        if (p < sliceEnd || p == end) return p;
    }
}

/// The end of the balanced text that starts at `from`, or NULL.
static const char *balance_end_mayraise(
    lua_State *L, rl_pattern *pattern, const rl_pattern_item *item, const char *from, const char *end
) {
    if (from == end || (uint8_t)*from != item->a) return NULL;
    size_t depth = 1;
    const char *p = from + 1;
    while (p < end) {
        const char *slice = p;
        const char *sliceEnd = (size_t)(end - p) > RL_TICK_BATCH ? p + RL_TICK_BATCH : end;
        for (; p < sliceEnd; p++) {
            // The closing byte first: where both are the same, the next one closes.
            if ((uint8_t)*p == item->b) {
                if (--depth == 0) {
                    charge_mayraise(L, pattern, (size_t)(p - slice) + 1);
                    return p + 1;
                }
            } else if ((uint8_t)*p == item->a) {
                depth++;
            }
        }
        charge_mayraise(L, pattern, (size_t)(p - slice));
    }
    return NULL;
}

/// Carries out an item that offers no choice. The place after it, or NULL where it does not match at `s`.
static const char *plain_step_mayraise(
    lua_State *L, rl_pattern *pattern, rl_subject subject, const rl_pattern_item *item, const char *s
) {
    switch (item->op) {
    case opOpen:
        pattern->captures[item->a].start = s;
        return s;
    case opClose:
        pattern->captures[item->a].end = s;
        return s;
    case opPosition:
        pattern->captures[item->a] = (rl_capture){.start = s, .end = NULL};
        return s;
    case opAtEnd:
        return s == subject.end ? s : NULL;
    case opFrontier: {
        // Before the subject and behind it there is a zero byte.
        unsigned char before = s == subject.start ? 0 : (unsigned char)s[-1];
        unsigned char after = s == subject.end ? 0 : (unsigned char)*s;
        return !rl_set_has(item->set, before) && rl_set_has(item->set, after) ? s : NULL;
    }
    case opBalance:
        return balance_end_mayraise(L, pattern, item, s, subject.end);
    case opCapture: {
        rl_capture capture = pattern->captures[item->a];
        size_t length = (size_t)(capture.end - capture.start);
        if (length > (size_t)(subject.end - s)) return NULL;
        charge_mayraise(L, pattern, length / 16);
        return memcmp(capture.start, s, length) == 0 ? s + length : NULL;
    }
    case opNever:
        return NULL;
    default:
        return s < subject.end && matches_byte(item, (unsigned char)*s) ? s + 1 : NULL;
    }
}

/// Enters a quantified item at `s`: chooses its first end and opens its choice where there is another. NULL where not
/// even the first end exists.
static const char *choose_mayraise(
    lua_State *L, rl_pattern *pattern, rl_subject subject, rl_pattern_item *item, const char *s,
    rl_pattern_item **choice
) {
    bool hasOther;
    switch (item->quantifier) {
    case '-':
        item->at = s;
        hasOther = true;
        break;
    case '?':
        item->low = s;
        item->at = s < subject.end && matches_byte(item, (unsigned char)*s) ? s + 1 : s;
        hasOther = item->at > item->low;
        break;
    default:
        item->at = run_end_mayraise(L, pattern, item, s, subject.end);
        item->low = item->quantifier == '+' ? s + 1 : s;
        if (item->at < item->low) return NULL;
        hasOther = item->at > item->low;
        break;
    }
    if (hasOther) {
        item->previous = *choice;
        *choice = item;
    }
    return item->at;
}

/// Gives the latest open choice its next end: the item, whose `at` is where to go on. NULL where no choice is left.
static rl_pattern_item *retry(rl_subject subject, rl_pattern_item **choice) {
    while (*choice != NULL) {
        rl_pattern_item *item = *choice;
        if (item->quantifier != '-') {
            item->at--;
            if (item->at == item->low) *choice = item->previous;
            return item;
        }
        if (item->at < subject.end && matches_byte(item, (unsigned char)*item->at)) {
            item->at++;
            return item;
        }
        *choice = item->previous;
    }
    return NULL;
}

/// The end of the match that starts at `from`, or NULL.
static const char *match_at_mayraise(lua_State *L, rl_pattern *pattern, rl_subject subject, const char *from) {
    size_t stepsLeft = RL_MAXIMUM_STEPS + 16 * (size_t)(subject.end - subject.start);
    rl_pattern_item *choice = NULL;
    rl_pattern_item *item = pattern->items;
    const char *s = from;
    while (item->op != opDone) {
        if (--stepsLeft == 0) luaL_error(L, "pattern too complex");
        charge_mayraise(L, pattern, 1);
        const char *next = item->quantifier != 0 ? choose_mayraise(L, pattern, subject, item, s, &choice)
                                                 : plain_step_mayraise(L, pattern, subject, item, s);
        if (next == NULL) {
            item = retry(subject, &choice);
            if (item == NULL) return NULL;
            next = item->at;
        }
        s = next;
        item++;
    }
    return s;
}

bool rl_pattern_search_mayraise(
    lua_State *L, rl_pattern *pattern, rl_subject subject, const char *from, const char *refusedEnd, rl_subject *match
) {
    for (const char *s = from; s <= subject.end; s++) {
        if (pattern->hasFirstByte && !pattern->anchored) {
            // SAFETY: s <= subject.end, so the length is not negative.
            const char *candidate = memchr(s, pattern->firstByte, (size_t)(subject.end - s));
            charge_mayraise(L, pattern, (size_t)((candidate != NULL ? candidate : subject.end) - s) / 16);
            if (candidate == NULL) return false;
            s = candidate;
        }
        charge_mayraise(L, pattern, 1);
        const char *end = match_at_mayraise(L, pattern, subject, s);
        if (end != NULL && end != refusedEnd) {
            *match = (rl_subject){.start = s, .end = end};
            return true;
        }
        if (pattern->anchored) return false;
    }
    return false;
}
