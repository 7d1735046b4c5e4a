// relay.after, every, cancel and sleep.
//
// The host owns the clock and counts the timers; the engine keeps id → function (after), { function } (every) or the
// sleeping call (light userdata).
#include <stdlib.h>

#include "engine.h"

/// Ten years of 365.25 days, in seconds.
#define RL_LONGEST_DELAY 315576000.0

void rl_forget_timer(lua_State *L, uint64_t timer) {
    rl_push_slot(L, rl_engine_of(L), rl_slot_timers);
    if (lua_rawgeti(L, -1, (lua_Integer)timer) != LUA_TNIL) {
        lua_pushnil(L);
        lua_rawseti(L, -3, (lua_Integer)timer);  // The key exists: nothing is allocated, nothing raises.
    }
    lua_pop(L, 2);
}

static double check_delay_mayraise(lua_State *L, int index) {
    double seconds = luaL_checknumber(L, index);
    luaL_argcheck(L, seconds >= 0 && seconds <= RL_LONGEST_DELAY, index, "0 seconds to 10 years expected");
    return seconds;
}

/// Remembers a timer of a reload hook: it goes if the unit is discarded.
static void remember_for_unit_mayraise(lua_State *L, rl_engine *e, uint64_t timer) {
    if (e->unit_timer_count == e->unit_timer_capacity) {
        size_t capacity = e->unit_timer_capacity == 0 ? 16 : e->unit_timer_capacity * 2;
        uint64_t *grown = realloc(e->unit_timers, capacity * sizeof(*grown));
        if (grown == NULL) luaL_error(L, "not enough memory for another timer");
        e->unit_timers = grown;
        e->unit_timer_capacity = capacity;
    }
    e->unit_timers[e->unit_timer_count++] = timer;
}

/// Has the host make a timer for the value at the top, which the table of timers keeps.
/// Stack: … value → … id
static int schedule_mayraise(lua_State *L, double seconds, bool repeats) {
    rl_engine *e = rl_engine_of(L);
    rl_push_slot(L, e, rl_slot_timers);
    lua_insert(L, -2);  // Stack: … timers value
    uint64_t timer = 0;
    if (!e->host.schedule(e->host.context, seconds, repeats, &timer)) {
        return luaL_error(L, "too many timers in this app: cancel some, or let them fire");
    }
    e->uncapped++;  // A raise now would leave the host a timer that nobody knows.
    lua_rawseti(L, -2, (lua_Integer)timer);
    e->uncapped--;
    lua_pop(L, 1);
    if (e->phase == rl_phase_reloading) remember_for_unit_mayraise(L, e, timer);
    lua_pushinteger(L, (lua_Integer)timer);
    return 1;
}

// relay.after(seconds, f): the timer's id
static int after(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.after");
    double seconds = check_delay_mayraise(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    rl_tick(L, 200);
    lua_settop(L, 2);
    return schedule_mayraise(L, seconds, false);
}

// relay.every(seconds, f): the timer's id
static int every(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.every");
    double seconds = check_delay_mayraise(L, 1);
    luaL_argcheck(L, seconds >= 0.001, 1, "at least a millisecond expected");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    rl_tick(L, 200);
    lua_settop(L, 2);
    lua_createtable(L, 1, 0);
    lua_insert(L, 2);
    lua_rawseti(L, 2, 1);  // Stack: seconds { f }
    return schedule_mayraise(L, seconds, true);
}

// relay.cancel(timer): whether there was one
static int cancel(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.cancel");
    rl_engine *e = rl_engine_of(L);
    lua_Integer timer = luaL_checkinteger(L, 1);
    rl_push_slot(L, e, rl_slot_timers);
    int type = lua_rawgeti(L, -1, timer);
    bool found = type == LUA_TFUNCTION || type == LUA_TTABLE;  // Sleeping calls are not the script's to cancel.
    if (found) {
        rl_forget_timer(L, (uint64_t)timer);
        e->host.cancel(e->host.context, (uint64_t)timer);
    }
    lua_pushboolean(L, found);
    return 1;
}

static int wake(lua_State *L, int status, lua_KContext context) {
    (void)status;
    (void)context;
    lua_settop(L, 0);
    return 0;
}

double rl_check_sleep_mayraise(lua_State *L, const char *function) {
    rl_engine *e = rl_engine_of(L);
    if (e->phase != rl_phase_serving) luaL_error(L, "%s is not possible while a script loads", function);
    if (L != e->active || !lua_isyieldable(L)) {
        luaL_error(L, "%s is not possible inside a coroutine, a metamethod or a callback of a library function: only "
                      "an instruction, a hook or a timer can sleep", function);
    }
    int64_t now = rl_now(), *deadline = &e->call->deadline;
    if (*deadline == 0) *deadline = now + e->budgets.call_nanoseconds;
    return *deadline > now ? (double)(*deadline - now) / 1e9 : 0;
}

// relay.sleep(seconds)
static int sleep_mayraise(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    double seconds = check_delay_mayraise(L, 1);
    double left = rl_check_sleep_mayraise(L, "relay.sleep");
    // Who sleeps past the call's time is woken for its end.
    rl_call_state *call = e->call;
    call->is_overdue = seconds >= left;
    if (call->is_overdue) seconds = left;
    lua_pushlightuserdata(L, call);
    schedule_mayraise(L, seconds, false);
    e->sleeping = true;
    return lua_yieldk(L, 0, 0, wake);
}

void rl_add_timers_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"after", after}, {"every", every}, {"cancel", cancel}, {"sleep", sleep_mayraise}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
