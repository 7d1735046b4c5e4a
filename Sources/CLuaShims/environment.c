// The environment of a unit: what its text assigns, held back until the commit.
//
// rl_make_staging holds values; this adds that `name = nil` hides a global from the text, and removes it at the commit:
//
//     text ── _ENV ──▶ environment ──__index──▶ read_global ──▶ removed names, else the globals
//                           └──__newindex──▶ assign_global ──▶ checks reserved names, notes removals
#include "engine.h"

// Upvalues 1: removed names (set), 2: where reading goes on.   Stack: environment key → … value
static int read_global(lua_State *L) {
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 0;
    lua_pushvalue(L, 2);
    lua_gettable(L, lua_upvalueindex(2));
    return 1;
}

// Upvalues 1: removed names (set), 2: what assigns (and raises for reserved names).   Stack: environment key value
static int assign_global(lua_State *L) {
    lua_settop(L, 3);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_pushvalue(L, 3);  // Stack: assign environment key value key
    lua_insert(L, 1);     // Stack: key assign environment key value
    bool isRemoval = lua_isnil(L, 5);
    lua_call(L, 3, 0);    // Stack: key
    if (isRemoval && !lua_isnil(L, 1)) {
        lua_pushboolean(L, true);
        lua_rawset(L, lua_upvalueindex(1));
    }
    return 0;
}

void rl_push_environment_mayraise(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_push_slot(L, e, rl_slot_globals);
    rl_push_slot(L, e, rl_slot_libraries);
    rl_make_staging(L);  // Stack: … G libs environment
    lua_newtable(L);
    lua_getmetatable(L, -2);  // Stack: … G libs environment removed metatable
    lua_pushvalue(L, -2);
    lua_getfield(L, -2, "__index");
    lua_pushcclosure(L, read_global, 2);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, -2);
    lua_getfield(L, -2, "__newindex");
    lua_pushcclosure(L, assign_global, 2);
    lua_setfield(L, -2, "__newindex");
    lua_pop(L, 1);  // Stack: … G libs environment removed
    lua_rotate(L, -4, 2);
    lua_pop(L, 2);  // Stack: … environment removed
}

/// Sets each key of the table at the top in G: to its value, or to nil where `removes`; and empties the table.
/// Stack: … G table → … G table
static void move_all_mayraise(lua_State *L, bool removes) {
    lua_pushnil(L);
    while (lua_next(L, -2)) {  // Stack: … G table key value
        lua_pushvalue(L, -2);
        if (removes) lua_pushnil(L);
        else lua_pushvalue(L, -2);  // Stack: … G table key value key new
        lua_rawset(L, -6);
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, -4);  // Emptying while lua_next walks is allowed.
    }
}

void rl_commit_environment_mayraise(lua_State *L) {
    rl_push_slot(L, rl_engine_of(L), rl_slot_globals);
    lua_insert(L, -3);                 // Stack: … G environment removed
    lua_pushvalue(L, -3);
    lua_insert(L, -2);                 // Stack: … G environment G removed
    move_all_mayraise(L, true);
    lua_pop(L, 2);                     // Stack: … G environment
    move_all_mayraise(L, false);
    // Who kept the table itself (_ENV as a value, chunks of load) reads and writes through it from now on.
    lua_createtable(L, 0, 3);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);                     // Stack: … G
}
