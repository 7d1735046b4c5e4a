// The `relay` table: time, random, digests, log, config; and print and require.
#include <string.h>

#include "engine.h"

#define RL_MAXIMUM_LOG_BYTES ((size_t)8 << 10)
#define RL_MAXIMUM_LOG_FIELDS 32

// MARK: Time

static int now(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    lua_pushnumber(L, e->host.wall_clock(e->host.context));
    return 1;
}

static int monotonic(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    lua_pushnumber(L, e->host.monotonic(e->host.context));
    return 1;
}

// MARK: Tokens and digests

/// Stack: … → … hexadecimal
static void push_hexadecimal_mayraise(lua_State *L, const uint8_t *bytes, size_t count) {
    static const char digits[] = "0123456789abcdef";
    luaL_Buffer buffer;
    char *out = luaL_buffinitsize(L, &buffer, count * 2);
    for (size_t i = 0; i < count; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    luaL_pushresultsize(&buffer, count * 2);
}

// relay.randomToken(bytes)
static int random_token(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    lua_Integer count = luaL_optinteger(L, 1, 16);
    luaL_argcheck(L, count >= 1 && count <= 1024, 1, "1 to 1024 bytes expected");
    uint8_t bytes[1024];
    rl_tick(L, 500 + (size_t)count * 4);
    e->host.random_bytes(e->host.context, bytes, (size_t)count);
    push_hexadecimal_mayraise(L, bytes, (size_t)count);
    return 1;
}

static rl_bytes check_bytes_mayraise(lua_State *L, int index) {
    size_t count;
    const char *start = luaL_checklstring(L, index, &count);
    return rl_text(start, count);
}

// relay.equal(a, b): takes as long whether they differ early or late
static int equal(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    lua_settop(L, 2);
    if (lua_isnil(L, 1) || lua_isnil(L, 2)) {  // A credential that is missing is a usual case, and equals nothing.
        lua_pushboolean(L, false);
        return 1;
    }
    rl_bytes a = check_bytes_mayraise(L, 1), b = check_bytes_mayraise(L, 2);
    rl_tick(L, a.count + b.count);
    lua_pushboolean(L, e->host.equal(e->host.context, a, b));
    return 1;
}

// relay.sha256(s)
static int sha256(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_bytes text = check_bytes_mayraise(L, 1);
    uint8_t digest[32];
    rl_tick(L, 1000 + text.count * 2);
    e->host.sha256(e->host.context, text, digest);
    push_hexadecimal_mayraise(L, digest, sizeof(digest));
    return 1;
}

// relay.hmac(key, s): HMAC-SHA-256
static int hmac(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_bytes key = check_bytes_mayraise(L, 1), text = check_bytes_mayraise(L, 2);
    uint8_t digest[32];
    rl_tick(L, 2000 + (key.count + text.count) * 2);
    e->host.hmac_sha256(e->host.context, key, text, digest);
    push_hexadecimal_mayraise(L, digest, sizeof(digest));
    return 1;
}

// MARK: Logging

static rl_bytes log_text(lua_State *L, int index) {
    size_t count;
    const char *start = lua_tolstring(L, index, &count);
    return rl_text(start, count < RL_MAXIMUM_LOG_BYTES ? count : RL_MAXIMUM_LOG_BYTES);
}

// relay.log(level, message, fields): fields is a flat table
static int log_message(lua_State *L) {
    static const char *const levels[] = {"debug", "info", "warning", "error", NULL};
    rl_engine *e = rl_engine_of(L);
    int level = luaL_checkoption(L, 1, NULL, levels);
    luaL_checkany(L, 2);
    luaL_tolstring(L, 2, NULL);
    lua_replace(L, 2);
    rl_bytes fields[RL_MAXIMUM_LOG_FIELDS * 2];
    size_t count = 0;
    lua_settop(L, 3);
    if (!lua_isnil(L, 3)) {
        luaL_checktype(L, 3, LUA_TTABLE);
        luaL_checkstack(L, RL_MAXIMUM_LOG_FIELDS * 2 + 6, "too many fields");
        lua_pushnil(L);
        while (lua_next(L, 3)) {  // Stack: level message fields … key value
            if (count == RL_MAXIMUM_LOG_FIELDS * 2) {
                return luaL_error(L, "a log entry has at most %d fields", RL_MAXIMUM_LOG_FIELDS);
            }
            if (lua_type(L, -2) != LUA_TSTRING) return luaL_error(L, "the names of a log entry's fields are texts");
            luaL_tolstring(L, -1, NULL);
            lua_replace(L, -2);     // Stack: … key text
            lua_pushvalue(L, -2);   // Stack: … key text key, for lua_next; the first two stay, so that they live
            fields[count] = log_text(L, -3);
            fields[count + 1] = log_text(L, -2);
            count += 2;
        }
    }
    rl_bytes message = log_text(L, 2);
    size_t bytes = message.count;
    for (size_t i = 0; i < count; i++) bytes += fields[i].count;
    rl_tick(L, 1000 + bytes + count * 50);
    e->host.log(e->host.context, level, message, fields, count);
    return 0;
}

// print(...): one entry at info, joined by tabs
static int print(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    int count = lua_gettop(L);
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    for (int i = 1; i <= count; i++) {
        if (i > 1) luaL_addchar(&buffer, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&buffer);
    }
    luaL_pushresult(&buffer);
    rl_bytes message = log_text(L, -1);
    rl_tick(L, 1000 + message.count);
    e->host.log(e->host.context, 1, message, NULL, 0);
    return 0;
}

// MARK: Modules and configuration

// require(name)
static int require(lua_State *L) {
    luaL_checktype(L, 1, LUA_TSTRING);
    lua_settop(L, 1);
    rl_push_slot(L, rl_engine_of(L), rl_slot_modules);
    lua_pushvalue(L, 1);
    if (lua_rawget(L, -2) == LUA_TNIL) {
        return luaL_error(L, "module '%s' is not loaded: send it with the require instruction", lua_tostring(L, 1));
    }
    return 1;
}

/// Makes the table at the top and all tables in it read-only; JSON has no cycles.   Stack: … table → … proxy
static void protect_mayraise(lua_State *L) {
    luaL_checkstack(L, 8, "the configuration is nested too deeply");
    lua_pushnil(L);
    while (lua_next(L, -2)) {  // Stack: … table key value
        if (lua_istable(L, -1)) {
            protect_mayraise(L);
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            lua_rawset(L, -4);  // The key exists, so the walk goes on.
        } else {
            lua_pop(L, 1);
        }
    }
    rl_push_readonly(L, "relay.config");
}

/// __index of the inner relay table: reads the configuration at its first use.   Stack: relay key
static int index_relay(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    if (lua_type(L, 2) != LUA_TSTRING || strcmp(lua_tostring(L, 2), "config") != 0) return 0;
    rl_list *list = rl_fresh_list(e);
    e->host.config(e->host.context, list);
    if (rl_push_item_mayraise(L, list, 0) == 0) lua_pushliteral(L, "{}");
    size_t count;
    const char *text = lua_tolstring(L, -1, &count);
    rl_json_decode(L, text, count);
    if (!lua_istable(L, -1)) lua_newtable(L);
    protect_mayraise(L);
    rl_push_slot(L, e, rl_slot_relay);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "config");
    lua_pop(L, 1);
    return 1;
}

// Stack: (empty)
static int forget_configuration(lua_State *L) {
    rl_push_slot(L, rl_engine_of(L), rl_slot_relay);
    lua_pushnil(L);
    lua_setfield(L, -2, "config");
    return 0;
}

void rl_configuration_changed(rl_engine *e) {
    RL_ENTER(e);
    e->uncapped++;
    lua_pushcfunction(e->main, forget_configuration);
    if (lua_pcall(e->main, 0, 0, 0) != LUA_OK) lua_pop(e->main, 1);
    e->uncapped--;
    RL_LEAVE(e);
}

/// Stack: … libs → … libs
void rl_add_relay_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"now", now},       {"monotonic", monotonic}, {"randomToken", random_token}, {"equal", equal},
        {"sha256", sha256}, {"hmac", hmac},           {"log", log_message},          {NULL, NULL},
    };
    rl_engine *e = rl_engine_of(L);
    luaL_newlib(L, functions);  // Stack: … libs relay
    rl_add_registry_mayraise(L);
    rl_add_dial_mayraise(L);
    rl_add_timers_mayraise(L);
    rl_add_http_mayraise(L);
    lua_pushinteger(L, 0);
    lua_setfield(L, -2, "generation");
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, index_relay);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_relay]);
    rl_push_readonly(L, "relay");
    lua_setfield(L, -2, "relay");
    lua_pushcfunction(L, print);
    lua_setfield(L, -2, "print");
    lua_pushcfunction(L, require);
    lua_setfield(L, -2, "require");
}
