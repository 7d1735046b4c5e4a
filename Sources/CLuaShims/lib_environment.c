// What scripts reach libraries and globals through: read-only proxies, the globals table and staging environments.
//
//     script ─ _ENV ─▶ G ──__index──▶ libs ─▶ string (proxy) ──__index──▶ the real string table
//                                  ▲
//     script ─ _ENV ─▶ staging ─▶ view {_G = staging}      (while it loads)
//
// No arrow can be followed from a script except by reading a name: every metatable here has `__metatable = false`.
#include <stdbool.h>

#include "libraries.h"

/// The key, in the metatables of this file, of what rawset must know: true in a proxy's, libs in an environment's.
/// Scripts cannot make a light userdata, so they cannot forge it.
static const char protectionKey;

/// Reads protectionKey of the metatable of the table at `index`. False, with nothing pushed, where it has none.
///
///     Stack: … → … [protection]
static bool push_protection(lua_State *L, int index) {
    if (!lua_getmetatable(L, index)) return false;             // Stack: … metatable
    bool isProtected = lua_rawgetp(L, -1, &protectionKey) != LUA_TNIL;
    lua_remove(L, -2);                                         // Stack: … protection
    if (!isProtected) lua_pop(L, 1);
    return isProtected;
}

/// Raises where the environment must not have a variable of this name.
///
///     Stack: … (libs at `libs`, key at `key`) unchanged
static void check_reserved_mayraise(lua_State *L, int libs, int key) {
    lua_pushvalue(L, key);
    if (lua_rawget(L, libs) != LUA_TNIL) {                     // Stack: … value
        luaL_error(L, "'%s' is reserved", luaL_tolstring(L, key, NULL));
    }
    lua_pop(L, 1);
}

void rl_check_rawset_mayraise(lua_State *L, int index, int key) {
    luaL_checkstack(L, 4, NULL);
    index = lua_absindex(L, index);
    key = lua_absindex(L, key);
    if (!push_protection(L, index)) return;                    // Stack: … protection
    if (!lua_istable(L, -1)) luaL_error(L, "table is read-only");
    check_reserved_mayraise(L, lua_gettop(L), key);
    lua_pop(L, 1);
}

// MARK: Read-only proxies

/// Goes on in the real table, without showing it. Upvalue: the real table.
/// Stack: proxy key → … (key value | nil)
static int proxy_next(lua_State *L) {
    lua_settop(L, 2);
    if (lua_next(L, lua_upvalueindex(1))) return 2;
    lua_pushnil(L);
    return 1;
}

/// Upvalue: proxy_next's closure.   Stack: proxy → … next proxy nil
static int proxy_pairs(lua_State *L) {
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushnil(L);
    return 3;
}

/// Upvalue: the proxy's name.   Stack: proxy key value → raises
static int proxy_newindex(lua_State *L) {
    return luaL_error(L, "'%s' is read-only", lua_tostring(L, lua_upvalueindex(1)));
}

void rl_push_readonly(lua_State *L, const char *name) {
    luaL_checkstack(L, 6, NULL);
    lua_newtable(L);
    lua_createtable(L, 0, 6);                                  // Stack: … table proxy metatable
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushstring(L, name);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__name");                             // Stack: … table proxy metatable name
    lua_pushcclosure(L, proxy_newindex, 1);
    lua_setfield(L, -2, "__newindex");                         // Stack: … table proxy metatable
    lua_pushvalue(L, -3);
    lua_pushcclosure(L, proxy_next, 1);
    lua_pushcclosure(L, proxy_pairs, 1);
    lua_setfield(L, -2, "__pairs");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pushboolean(L, 1);
    lua_rawsetp(L, -2, &protectionKey);
    lua_setmetatable(L, -2);                                   // Stack: … table proxy
    lua_replace(L, -2);                                        // Stack: … proxy
}

// MARK: Globals

/// Assigning a global that is not there yet. Upvalue: libs.
/// Stack: environment key value → …
static int environment_newindex(lua_State *L) {
    lua_settop(L, 3);
    check_reserved_mayraise(L, lua_upvalueindex(1), 2);
    lua_rawset(L, 1);
    return 0;
}

/// Gives the table at `environment` the metatable of an environment that reads on in the table at the top.
///
///     Stack: … next → …
static void protect_environment_mayraise(lua_State *L, int environment, int libs) {
    lua_createtable(L, 0, 4);                                  // Stack: … next metatable
    lua_insert(L, -2);                                         // Stack: … metatable next
    lua_setfield(L, -2, "__index");                            // Stack: … metatable
    lua_pushvalue(L, libs);
    lua_pushcclosure(L, environment_newindex, 1);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pushvalue(L, libs);
    lua_rawsetp(L, -2, &protectionKey);
    lua_setmetatable(L, environment);                          // Stack: …
}

void rl_make_globals(lua_State *L) {
    luaL_checkstack(L, 6, NULL);
    int libs = lua_gettop(L);
    lua_newtable(L);                                           // Stack: … libs G
    lua_pushvalue(L, libs);
    protect_environment_mayraise(L, libs + 1, libs);
    lua_pushvalue(L, -1);
    lua_setfield(L, libs, "_G");
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);       // Stack: … libs G
}

void rl_make_staging(lua_State *L) {
    luaL_checkstack(L, 8, NULL);
    int libs = lua_gettop(L), globals = libs - 1;
    lua_newtable(L);                                           // Stack: … G libs staging
    // The view answers `_G`, so that it is not among what the script has assigned.
    lua_createtable(L, 0, 1);                                  // Stack: … G libs staging view
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "_G");
    lua_createtable(L, 0, 1);                                  // Stack: … G libs staging view metatable
    lua_pushvalue(L, globals);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);                                   // Stack: … G libs staging view
    protect_environment_mayraise(L, libs + 1, libs);           // Stack: … G libs staging
}
