// The table library. Works through metamethods as stock Lua does; every slot that is touched is charged, and no range
// is longer than RL_MAXIMUM_RANGE, whatever a `__len` claims.
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "libraries.h"

/// What a function is going to do to its table.
enum { willRead = 1, willWrite = 2, willMeasure = 4 };

/// What reading or writing a slot through the API costs: 3 to 13 ns, hash parts and metatables included.
#define UNITS_PER_SLOT 3

/// Adds up slots and charges them in batches.
typedef struct rl_meter {
    lua_State *L;
    size_t work;
} rl_meter;

static void count_mayraise(rl_meter *meter, size_t work) {
    meter->work += work;
    if (meter->work >= RL_TICK_BATCH) {
        size_t charged = meter->work;
        meter->work = 0;
        rl_tick(meter->L, charged);
    }
}

static void settle_mayraise(rl_meter *meter) {
    rl_tick(meter->L, meter->work + 1);
    meter->work = 0;
}

/// Raises where the argument is neither a table nor something with the metamethods for `use`.
static void check_table_mayraise(lua_State *L, int index, int use) {
    if (lua_type(L, index) == LUA_TTABLE) return;
    bool isTableLike = lua_getmetatable(L, index);  // Stack: … [metatable]
    if (isTableLike) {
        static const struct { int use; const char *name; } needed[] = {
            {willRead, "__index"}, {willWrite, "__newindex"}, {willMeasure, "__len"}};
        for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
            if ((use & needed[i].use) == 0) continue;
            lua_pushstring(L, needed[i].name);
            isTableLike = lua_rawget(L, -2) != LUA_TNIL && isTableLike;
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    if (!isTableLike) luaL_checktype(L, index, LUA_TTABLE);
}

static lua_Integer check_length_mayraise(lua_State *L, int index, int use) {
    check_table_mayraise(L, index, use | willMeasure);
    return luaL_len(L, index);
}

/// Raises where first…last has more slots than one call may touch. The difference is taken unsigned: it cannot wrap
/// where first <= last.
static void check_range_mayraise(lua_State *L, lua_Integer first, lua_Integer last) {
    if (first <= last && (lua_Unsigned)last - (lua_Unsigned)first >= (lua_Unsigned)RL_MAXIMUM_RANGE) {
        luaL_error(L, "range too large (limit %I slots)", (LUAI_UACINT)RL_MAXIMUM_RANGE);
    }
}

// MARK: insert, remove, move

/// Stack: table [position] value → …
static int table_insert(lua_State *L) {
    lua_Integer length = check_length_mayraise(L, 1, willRead | willWrite);
    // Wraps where a __len claims the largest integer; the range check below refuses what follows from that.
    lua_Integer next = (lua_Integer)((lua_Unsigned)length + 1);
    switch (lua_gettop(L)) {
    case 2:
        lua_seti(L, 1, next);
        return 0;
    case 3: {
        lua_Integer position = luaL_checkinteger(L, 2);
        luaL_argcheck(
            L, (lua_Unsigned)position - 1 < (lua_Unsigned)next, 2, "position out of bounds");
        check_range_mayraise(L, position, next);
        rl_meter meter = {.L = L, .work = 0};
        for (lua_Integer i = next; i > position; i--) {
            lua_geti(L, 1, i - 1);
            lua_seti(L, 1, i);
            count_mayraise(&meter, UNITS_PER_SLOT);
        }
        settle_mayraise(&meter);
        lua_seti(L, 1, position);
        return 0;
    }
    default:
        return luaL_error(L, "wrong number of arguments to 'insert'");
    }
}

/// Stack: table [position] → … removed
static int table_remove(lua_State *L) {
    lua_Integer length = check_length_mayraise(L, 1, willRead | willWrite);
    lua_Integer position = luaL_optinteger(L, 2, length);
    // One past the end is allowed, and so is what the length itself says (0 in an empty table): an absent slot each.
    if (lua_gettop(L) > 1) {
        luaL_argcheck(
            L, position == length || (lua_Unsigned)position - 1 <= (lua_Unsigned)length, 2, "position out of bounds");
    }
    check_range_mayraise(L, position, length);
    lua_settop(L, 1);
    lua_geti(L, 1, position);                 // Stack: table removed
    rl_meter meter = {.L = L, .work = 0};
    for (; position < length; position++) {
        lua_geti(L, 1, position + 1);
        lua_seti(L, 1, position);
        count_mayraise(&meter, UNITS_PER_SLOT);
    }
    settle_mayraise(&meter);
    lua_pushnil(L);
    lua_seti(L, 1, position);
    return 1;
}

/// Stack: source first last to [destination] → … destination
static int table_move(lua_State *L) {
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
    int destination = lua_isnoneornil(L, 5) ? 1 : 5;
    check_table_mayraise(L, 1, willRead);
    check_table_mayraise(L, destination, willWrite);
    if (first <= last) {
        check_range_mayraise(L, first, last);
        lua_Integer count = last - first + 1;
        luaL_argcheck(L, to <= LUA_MAXINTEGER - count + 1, 4, "destination wrap around");
        // Upwards, unless that would overwrite what is still to be read.
        bool overlaps = to > first && to <= last && (destination == 1 || lua_compare(L, 1, destination, LUA_OPEQ));
        rl_meter meter = {.L = L, .work = 0};
        for (lua_Integer i = 0; i < count; i++) {
            lua_Integer offset = overlaps ? count - 1 - i : i;
            lua_geti(L, 1, first + offset);
            lua_seti(L, destination, to + offset);
            count_mayraise(&meter, UNITS_PER_SLOT);
        }
        settle_mayraise(&meter);
    }
    lua_pushvalue(L, destination);
    return 1;
}

// MARK: concat, pack, unpack

/// Stack: table [separator [first [last]]] → … text
static int table_concat(lua_State *L) {
    lua_Integer length = check_length_mayraise(L, 1, willRead);
    size_t separatorLength;
    const char *separator = luaL_optlstring(L, 2, "", &separatorLength);
    lua_Integer first = luaL_optinteger(L, 3, 1);
    lua_Integer last = luaL_optinteger(L, 4, length);
    check_range_mayraise(L, first, last);
    rl_meter meter = {.L = L, .work = 0};
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    size_t total = 0;
    // SAFETY of the count: last - first is below RL_MAXIMUM_RANGE, so neither it nor first + i can wrap.
    lua_Integer count = first <= last ? last - first + 1 : 0;
    for (lua_Integer i = 0; i < count; i++) {
        lua_geti(L, 1, first + i);            // Stack: … [buffer] value
        if (!lua_isstring(L, -1)) {
            return luaL_error(
                L, "invalid value (at index %I) in table for 'concat'", (LUAI_UACINT)(first + i));
        }
        lua_tolstring(L, -1, NULL);
        size_t added = lua_rawlen(L, -1) + (i + 1 < count ? separatorLength : 0);
        total += added;
        if (total > RL_MAXIMUM_RESULT_BYTES) {
            return luaL_error(L, "result too large (limit %d bytes)", (int)RL_MAXIMUM_RESULT_BYTES);
        }
        count_mayraise(&meter, added / 32 + UNITS_PER_SLOT);
        luaL_addvalue(&buffer);               // Stack: … [buffer]
        if (i + 1 < count) luaL_addlstring(&buffer, separator, separatorLength);
    }
    settle_mayraise(&meter);
    luaL_pushresult(&buffer);
    return 1;
}

/// Stack: values… → … table
static int table_pack(lua_State *L) {
    int count = lua_gettop(L);
    rl_tick(L, (size_t)count + 1);
    lua_createtable(L, count, 1);             // Stack: values… table
    lua_insert(L, 1);                         // Stack: table values…
    for (int i = count; i >= 1; i--) lua_rawseti(L, 1, i);
    lua_pushinteger(L, count);
    lua_setfield(L, 1, "n");                  // Stack: table
    return 1;
}

/// Stack: table [first [last]] → … values…
static int table_unpack(lua_State *L) {
    lua_Integer first = luaL_optinteger(L, 2, 1);
    lua_Integer last = lua_isnoneornil(L, 3) ? luaL_len(L, 1) : luaL_checkinteger(L, 3);
    if (first > last) return 0;
    lua_Unsigned more = (lua_Unsigned)last - (lua_Unsigned)first;
    if (more >= INT32_MAX || !lua_checkstack(L, (int)more + 1)) return luaL_error(L, "too many results to unpack");
    rl_meter meter = {.L = L, .work = 0};
    for (lua_Unsigned i = 0; i <= more; i++) {
        lua_geti(L, 1, (lua_Integer)((lua_Unsigned)first + i));
        count_mayraise(&meter, UNITS_PER_SLOT);
    }
    settle_mayraise(&meter);
    return (int)more + 1;
}

// MARK: sort
//
// A merge sort from one copy of the elements to another, back and forth: it compares at most n·log2(n) times whatever
// the comparator answers, reads nothing but slots 1…n of its own two tables, keeps equal elements in order, and writes
// to the script's table only once all comparisons are done. An error in a comparator leaves the table as it was.
//
//     Stack of table_sort:  table comparator source target …

enum { sortTable = 1, sortComparator = 2 };

/// Whether the value at `a` sorts before that at `b`; both are positive indexes.
static bool is_before_mayraise(rl_meter *meter, int a, int b, bool hasComparator) {
    lua_State *L = meter->L;
    if (hasComparator) {
        // No hook runs inside a comparator in C, and what it compares may be megabytes: the clock is read each time.
        count_mayraise(meter, lua_iscfunction(L, sortComparator) ? 50000 : 10);
        lua_pushvalue(L, sortComparator);
        lua_pushvalue(L, a);
        lua_pushvalue(L, b);
        lua_call(L, 2, 1);
        bool answer = lua_toboolean(L, -1);
        lua_pop(L, 1);
        return answer;
    }
    size_t cost = 2;
    if (lua_type(L, a) == LUA_TSTRING && lua_type(L, b) == LUA_TSTRING) {
        size_t lengthA = lua_rawlen(L, a), lengthB = lua_rawlen(L, b);
        cost += (lengthA < lengthB ? lengthA : lengthB) / 4;
    }
    count_mayraise(meter, cost);
    return lua_compare(L, a, b, LUA_OPLT);
}

/// Merges source[low…middle-1] and source[middle…high-1], both sorted, into target[low…high-1].
///
///     Stack: table comparator … (unchanged; source and target are indexes)
static void merge_mayraise(
    rl_meter *meter, int source, int target, lua_Integer low, lua_Integer middle, lua_Integer high, bool hasComparator
) {
    lua_State *L = meter->L;
    lua_Integer left = low, right = middle, out = low;
    if (left < middle && right < high) {
        // Two runs that are in order already need one comparison.
        lua_rawgeti(L, source, right);
        lua_rawgeti(L, source, middle - 1);                   // Stack: … right lastOfLeft
        int top = lua_gettop(L);
        bool isMixed = is_before_mayraise(meter, top - 1, top, hasComparator);
        lua_pop(L, 2);
        if (isMixed) {
            lua_rawgeti(L, source, left);
            lua_rawgeti(L, source, right);                    // Stack: … left right
            int leftIndex = lua_gettop(L) - 1, rightIndex = leftIndex + 1;
            while (left < middle && right < high) {
                bool takeRight = is_before_mayraise(meter, rightIndex, leftIndex, hasComparator);
                int taken = takeRight ? rightIndex : leftIndex;
                lua_pushvalue(L, taken);
                lua_rawseti(L, target, out++);
                lua_rawgeti(L, source, takeRight ? ++right : ++left);
                lua_replace(L, taken);
            }
            lua_pop(L, 2);
        }
    }
    for (; left < middle; left++) {
        lua_rawgeti(L, source, left);
        lua_rawseti(L, target, out++);
    }
    for (; right < high; right++) {
        lua_rawgeti(L, source, right);
        lua_rawseti(L, target, out++);
    }
    count_mayraise(meter, (size_t)(high - low));
}

/// Stack: table [comparator] → …
static int table_sort(lua_State *L) {
    lua_Integer length = check_length_mayraise(L, sortTable, willRead | willWrite);
    if (length < 2) return 0;
    luaL_argcheck(L, length <= RL_MAXIMUM_RANGE, 1, "array too big");
    bool hasComparator = !lua_isnoneornil(L, sortComparator);
    if (hasComparator) luaL_checktype(L, sortComparator, LUA_TFUNCTION);
    lua_settop(L, 2);
    luaL_checkstack(L, 16, NULL);

    // Sized by what is really there, not by what a __len claims: that grows with what is read, under the tick.
    rl_meter meter = {.L = L, .work = 0};
    int size = lua_rawlen(L, sortTable) >= (lua_Unsigned)length ? (int)length : 0;
    lua_createtable(L, size, 0);
    lua_createtable(L, size, 0);              // Stack: table comparator source target
    int source = 3, target = 4;
    for (lua_Integer i = 1; i <= length; i++) {
        lua_geti(L, sortTable, i);
        lua_rawseti(L, source, i);
        count_mayraise(&meter, UNITS_PER_SLOT);
    }
    for (lua_Integer width = 1; width < length; width *= 2) {
        for (lua_Integer low = 1; low <= length; low += 2 * width) {
            lua_Integer middle = low + width <= length ? low + width : length + 1;
            lua_Integer high = middle + width <= length ? middle + width : length + 1;
            merge_mayraise(&meter, source, target, low, middle, high, hasComparator);
        }
        int swapped = source;
        source = target;
        target = swapped;
    }
    for (lua_Integer i = 1; i <= length; i++) {
        lua_rawgeti(L, source, i);
        lua_seti(L, sortTable, i);
        count_mayraise(&meter, UNITS_PER_SLOT);
    }
    settle_mayraise(&meter);
    return 0;
}

void rl_open_table_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"concat", table_concat}, {"insert", table_insert}, {"move", table_move},     {"pack", table_pack},
        {"remove", table_remove}, {"sort", table_sort},     {"unpack", table_unpack}, {NULL, NULL},
    };
    luaL_newlib(L, functions);
}
