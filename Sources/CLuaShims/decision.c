// What the hooks that decide have decided: from the values that they returned to the outcome.
#include <string.h>

#include "engine.h"

/// Makes a refusal the outcome. The reason is the value at `index`, nil where none was given.
static void refuse_mayraise(lua_State *L, rl_engine *e, rl_status outcome, lua_Integer status, int index) {
    size_t count = 9;
    const char *reason = "Forbidden";
    if (!lua_isnil(L, index)) reason = lua_tolstring(L, index, &count);
    if (reason == NULL || !rl_is_utf8(reason, count)) luaL_error(L, "a hook gives its reason as a text in UTF-8");
    if (count > sizeof(e->reason)) luaL_error(L, "the reason that a hook gives has more than 256 bytes");
    for (size_t i = 0; i < count; i++) {  // It ends up in a line of HTTP.
        e->reason[i] = (unsigned char)reason[i] < 0x20 || reason[i] == 0x7F ? ' ' : reason[i];
    }
    e->outcome.status = outcome;
    e->outcome.refusal = (int32_t)status;
    e->outcome.text = rl_text(e->reason, count);
}

void rl_read_refusal_mayraise(lua_State *L, rl_engine *e) {
    int isInteger = 1;
    lua_Integer status = lua_isnil(L, 2) ? 403 : lua_tointegerx(L, 2, &isInteger);
    if (!isInteger || status < 400 || status > 599) {
        luaL_error(L, "a handshake hook refuses with a status from 400 to 599, not %s", luaL_tolstring(L, 2, NULL));
    }
    refuse_mayraise(L, e, rl_status_refused, status, 3);
}

// MARK: Connect hooks

/// `server[, port[, metadata]]`, where `true` is the server that the client asked for.   Stack: server port metadata
static void allow_mayraise(lua_State *L, rl_engine *e) {
    rl_server server = {0};
    bool hasServer = !lua_isboolean(L, 1);
    bool isFloat = lua_type(L, 1) == LUA_TNUMBER && !lua_isinteger(L, 1);
    if (hasServer && (isFloat || !rl_to_server(L, 1, &server))) {
        luaL_error(L, "a connect hook returns nothing, a boolean or a server id (an integer or a text of 1 to 255 "
                   "bytes), not %s", isFloat ? "a float" : luaL_typename(L, 1));
    }
    uint16_t port = 0;
    bool hasPort = !lua_isnil(L, 2);
    if (hasPort && !rl_to_port(L, 2, &port)) {
        luaL_error(L, "the port that a connect hook returns is an integer from 0 to 65535");
    }
    if (!lua_isnil(L, 3)) {
        if (!lua_istable(L, 3)) {
            luaL_error(L, "the metadata that a connect hook returns is a table, not a %s", luaL_typename(L, 3));
        }
        e->outcome.text = rl_push_metadata_mayraise(L, 3);
        lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_result]);
    }
    if (server.name.start != NULL) {  // Nothing holds the text when the call is over.
        memcpy(e->message, server.name.start, server.name.count);
        server.name.start = e->message;
    }
    e->outcome.status = rl_status_connect_allowed;
    e->outcome.port = hasPort ? port : -1;
    e->outcome.has_server = hasServer;
    e->outcome.server = server;
}

// Stack: first second third → (anything)
static int read_connect(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    if (!lua_isboolean(L, 1) || lua_toboolean(L, 1)) {
        allow_mayraise(L, e);
        return 0;
    }
    if (!lua_isnil(L, 2) && !lua_isinteger(L, 2)) {
        return luaL_error(L, "a connect hook refuses with an integer for a status, not a %s", luaL_typename(L, 2));
    }
    lua_Integer status = lua_tointeger(L, 2);
    refuse_mayraise(L, e, rl_status_connect_refused, status >= 400 && status <= 599 ? status : 403, 3);
    return 0;
}

/// Reads what a hook has returned, with its place in front of an error.   Stack: first second third f → (anything)
static void read_mayraise(lua_State *L, lua_CFunction read) {
    lua_insert(L, 1);
    lua_pushcfunction(L, read);
    lua_insert(L, 2);  // Stack: f read first second third
    if (lua_pcall(L, 3, 0, 0) == LUA_OK) return;
    // No Lua function runs any more that the message could name: the place is where the hook begins.
    lua_Debug ar;
    lua_pushvalue(L, 1);
    lua_getinfo(L, ">S", &ar);
    if (ar.linedefined > 0) lua_pushfstring(L, "%s:%d: %s", ar.short_src, ar.linedefined, lua_tostring(L, -1));
    lua_error(L);
}

void rl_read_connect_mayraise(lua_State *L, rl_engine *e) {
    if (lua_isnil(L, 1)) e->outcome.status = rl_status_connect_undecided;
    else read_mayraise(L, read_connect);
}

// MARK: Request hooks

// Stack: status headers body → (anything)
static int read_response(lua_State *L) {
    rl_read_response_mayraise(L, rl_engine_of(L));
    return 0;
}

void rl_read_answer_mayraise(lua_State *L) {
    if (!lua_isnil(L, 1)) read_mayraise(L, read_response);
}
