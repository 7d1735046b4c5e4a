// relay.dial: a channel whose client is the script. To Lua it is a connection object, whose id the host has chosen.
#include "engine.h"

#define RL_DIAL_CALLBACKS 3

/// Releases what the host did not take.
static void release(lua_State *L, const int32_t *functions) {
    for (int i = 0; i < RL_DIAL_CALLBACKS; i++) luaL_unref(L, LUA_REGISTRYINDEX, functions[i]);
}

// relay.dial(serverID, port, { open =, message =, close = }, metadata): the channel, or nil and why not
static int dial(lua_State *L) {
    static const char *const names[RL_DIAL_CALLBACKS] = {"open", "message", "close"};
    rl_engine *e = rl_engine_of(L);
    if (e->phase != rl_phase_serving) {
        return luaL_error(L, "relay.dial is not possible while a script loads; in a reload hook use relay.after");
    }
    lua_settop(L, 4);
    rl_server server;
    uint16_t port;
    luaL_argcheck(L, rl_to_server(L, 1, &server), 1, "a server id is an integer or a text of 1 to 255 bytes");
    luaL_argcheck(L, rl_to_port(L, 2, &port), 2, "a port is an integer from 0 to 65535");
    luaL_checktype(L, 3, LUA_TTABLE);
    for (int i = 0; i < RL_DIAL_CALLBACKS; i++) {
        int type = lua_getfield(L, 3, names[i]);
        if (type != LUA_TFUNCTION && type != LUA_TNIL) {
            return luaL_error(L, "'%s' of relay.dial is a function", names[i]);
        }
    }
    rl_bytes metadata = {0};
    if (!lua_isnil(L, 4)) {
        luaL_checktype(L, 4, LUA_TTABLE);
        metadata = rl_push_metadata_mayraise(L, 4);
    }
    rl_tick(L, 2000);
    rl_list *code = rl_fresh_list(e);
    int32_t functions[RL_DIAL_CALLBACKS];
    e->uncapped++;  // A raise now would leave references, or a channel, that nobody knows.
    for (int i = 0; i < RL_DIAL_CALLBACKS; i++) {  // Stack: server port callbacks metadata open message close …
        lua_pushvalue(L, 5 + i);
        functions[i] = luaL_ref(L, LUA_REGISTRYINDEX);  // LUA_REFNIL, which is negative, where there is none.
    }
    uint64_t channel = e->host.dial(e->host.context, &server, port, functions, metadata, code);
    if (channel != 0) rl_push_connection_mayraise(L, channel);
    else release(L, functions);
    e->uncapped--;
    if (channel != 0) return 1;
    lua_pushnil(L);
    if (rl_push_item_mayraise(L, code, 0) == 0) lua_pushliteral(L, "internal");
    return 2;
}

/// Stack: … relay → … relay
void rl_add_dial_mayraise(lua_State *L) {
    lua_pushcfunction(L, dial);
    lua_setfield(L, -2, "dial");
}
