// What a script registers, installs and connects: relay.instruction, on, install, uninstall, server, pipe, connect,
// emit.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define RL_MAXIMUM_NAME_BYTES 255
/// What Relay's PortSet takes: so many ports and ranges, each with its comma at most as long as `65535-65535,`.
#define RL_MAXIMUM_PORTS 64
#define RL_MAXIMUM_PORTS_BYTES ((size_t)RL_MAXIMUM_PORTS * 12)

void rl_check_serving_mayraise(lua_State *L, const char *function) {
    if (rl_engine_of(L)->phase != rl_phase_loading) return;
    luaL_error(L, "%s is not possible while a script loads; use relay.on(\"reload\", ...)", function);
}

static void check_loading_mayraise(lua_State *L, const char *function) {
    if (rl_engine_of(L)->phase == rl_phase_loading) return;
    luaL_error(L, "%s is only possible while a script loads", function);
}

/// The name at `index`: 1 to 255 bytes of UTF-8.
static const char *check_name_mayraise(lua_State *L, int index, const char *what) {
    size_t count = 0;
    const char *name = lua_type(L, index) == LUA_TSTRING ? lua_tolstring(L, index, &count) : NULL;
    if (name == NULL || count == 0 || count > RL_MAXIMUM_NAME_BYTES || !rl_is_utf8(name, count)) {
        luaL_error(L, "%s is a text of 1 to %d bytes", what, RL_MAXIMUM_NAME_BYTES);
    }
    return name;
}

// MARK: While a script loads

// relay.instruction { "name", public = true, summary = "…", function(conn, …) … end }
static int instruction(lua_State *L) {
    check_loading_mayraise(L, "relay.instruction");
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_getfield(L, 1, "name");
    lua_getfield(L, 1, "summary");
    lua_pushnil(L);  // Stack: definition name summary f
    for (int i = 1; i <= 2; i++) {  // The name and the function, in any order.
        int type = lua_rawgeti(L, 1, i);
        if (type == LUA_TSTRING) lua_replace(L, 2);
        else if (type == LUA_TFUNCTION) lua_replace(L, 4);
        else lua_pop(L, 1);
    }
    check_name_mayraise(L, 2, "the name of an instruction");
    if (!lua_isfunction(L, 4)) {
        return luaL_error(L, "instruction '%s' has no function", lua_tostring(L, 2));
    }
    if (lua_isnil(L, 3)) {
        lua_pushliteral(L, "");
        lua_replace(L, 3);
    } else if (lua_type(L, 3) != LUA_TSTRING || !rl_is_utf8(lua_tostring(L, 3), lua_rawlen(L, 3))) {
        return luaL_error(L, "the summary of instruction '%s' is no text", lua_tostring(L, 2));
    }
    int type = lua_getfield(L, 1, "public");
    if (type != LUA_TNIL && type != LUA_TBOOLEAN) {
        return luaL_error(L, "'public' of instruction '%s' is true or false", lua_tostring(L, 2));
    }
    bool isPublic = type == LUA_TNIL || lua_toboolean(L, -1);
    lua_settop(L, 4);
    rl_add_entry_mayraise(L, false, isPublic);
    return 0;
}

// relay.on(point, f)
static int on(lua_State *L) {
    static const char *const points[] = {"handshake", "open", "message", "connect", "request", "close", "reload",
                                         NULL};
    check_loading_mayraise(L, "relay.on");
    const char *name = check_name_mayraise(L, 1, "the name of a hook");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    bool known = strncmp(name, "event:", 6) == 0 && name[6] != 0;
    for (int i = 0; points[i] != NULL && !known; i++) known = strcmp(name, points[i]) == 0;
    if (!known) {
        return luaL_error(L, "no hook is called '%s': there are handshake, open, message, connect, request, close, "
                             "reload and event:NAME", name);
    }
    lua_settop(L, 2);
    lua_pushliteral(L, "");
    lua_insert(L, 2);  // Stack: name summary f
    rl_add_entry_mayraise(L, true, false);
    return 0;
}

// MARK: Servers

bool rl_to_server(lua_State *L, int index, rl_server *server) {
    *server = (rl_server){0};
    int isInteger = 0;
    switch (lua_type(L, index)) {
        case LUA_TNUMBER:
            server->number = lua_tointegerx(L, index, &isInteger);
            return isInteger;
        case LUA_TSTRING:
            server->name.start = lua_tolstring(L, index, &server->name.count);
            return server->name.count > 0 && server->name.count <= RL_MAXIMUM_NAME_BYTES
                && rl_is_utf8(server->name.start, server->name.count);
        default: return false;
    }
}

static rl_server check_server_mayraise(lua_State *L, int index) {
    rl_server server;
    luaL_argcheck(L, rl_to_server(L, index, &server), index,
                  "a server id is an integer or a text of 1 to 255 bytes");
    return server;
}

void rl_push_server_mayraise(lua_State *L, rl_server server) {
    if (server.name.start == NULL) lua_pushinteger(L, server.number);
    else lua_pushlstring(L, server.name.start, server.name.count);
}

bool rl_to_port(lua_State *L, int index, uint16_t *port) {
    lua_Integer number = lua_tointeger(L, index);
    *port = (uint16_t)number;
    return lua_isinteger(L, index) && number >= 0 && number <= UINT16_MAX;
}

static int ports_error_mayraise(lua_State *L) {
    return luaL_argerror(L, 3, "'ports' is a list of 1 to 64 ports, or a text as in \"22,80-90\"");
}

/// The `ports` of the options at `index`, as text; `start` is NULL where there are none.   Stack: … → … ports
static rl_bytes push_ports_mayraise(lua_State *L, int index) {
    int type = lua_getfield(L, index, "ports");
    rl_bytes ports = {0};
    if (type == LUA_TNIL) return ports;
    if (type == LUA_TTABLE) {
        lua_Unsigned count = lua_rawlen(L, -1);
        if (count > RL_MAXIMUM_PORTS) ports_error_mayraise(L);
        char text[RL_MAXIMUM_PORTS * 6];
        size_t length = 0;
        for (lua_Unsigned i = 1; i <= count; i++) {
            uint16_t port;
            lua_rawgeti(L, -1, (lua_Integer)i);
            if (!rl_to_port(L, -1, &port)) ports_error_mayraise(L);
            lua_pop(L, 1);
            length += (size_t)snprintf(text + length, sizeof(text) - length, i > 1 ? ",%u" : "%u", port);
        }
        lua_pushlstring(L, text, length);
    } else if (type != LUA_TSTRING) {
        ports_error_mayraise(L);
    }
    ports.start = lua_tolstring(L, -1, &ports.count);
    if (ports.count > RL_MAXIMUM_PORTS_BYTES) ports_error_mayraise(L);
    return ports;
}

/// nil and why not.   Stack: … → … nil code
static int refuse_mayraise(lua_State *L, const char *code) {
    lua_pushnil(L);
    lua_pushstring(L, code);
    return 2;
}

/// What a host function answered: true, or nil and the code that it gave.
static int answer_mayraise(lua_State *L, bool done, const rl_list *code) {
    if (done) {
        lua_pushboolean(L, true);
        return 1;
    }
    lua_pushnil(L);
    if (rl_push_item_mayraise(L, code, 0) == 0) lua_pushliteral(L, "internal");
    return 2;
}

// relay.install(serverID, conn, options): true, or nil and why not
static int install(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.install");
    rl_engine *e = rl_engine_of(L);
    rl_server server = check_server_mayraise(L, 1);
    rl_connection *connection = rl_check_connection_mayraise(L, 2);
    bool replaces = false;
    rl_bytes ports = {0};
    if (!lua_isnoneornil(L, 3)) {
        luaL_checktype(L, 3, LUA_TTABLE);
        lua_getfield(L, 3, "replace");
        replaces = lua_toboolean(L, -1);
        ports = push_ports_mayraise(L, 3);
    }
    rl_tick(L, 500);
    if (connection->is_forgotten) return refuse_mayraise(L, "not_found");
    rl_list *code = rl_fresh_list(e);
    int32_t done = e->host.install(e->host.context, &server, connection->id, replaces, ports, code);
    if (done < 0) return ports_error_mayraise(L);
    return answer_mayraise(L, done == 1, code);
}

// relay.uninstall(serverID): whether one was installed
static int uninstall(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.uninstall");
    rl_engine *e = rl_engine_of(L);
    rl_server server = check_server_mayraise(L, 1);
    rl_tick(L, 500);
    lua_pushboolean(L, e->host.uninstall(e->host.context, &server));
    return 1;
}

// relay.server(serverID): its connection, or nil
static int find_server(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_server server = check_server_mayraise(L, 1);
    uint64_t connection = e->host.server(e->host.context, &server);
    if (connection == 0) lua_pushnil(L);
    else rl_push_connection_mayraise(L, connection);
    return 1;
}

// relay.pipe(connA, connB): true, or nil and why not
static int pipe_connections(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.pipe");
    rl_engine *e = rl_engine_of(L);
    rl_connection *one = rl_to_connection(L, 1), *other = rl_to_connection(L, 2);
    rl_tick(L, 500);
    if (one == NULL || other == NULL) return refuse_mayraise(L, "bad_parameters");
    if (one->is_forgotten || other->is_forgotten) return refuse_mayraise(L, "not_found");
    rl_list *code = rl_fresh_list(e);
    return answer_mayraise(L, e->host.pipe(e->host.context, one->id, other->id, code), code);
}

// relay.connect(conn, serverID, port, metadata): the channel's number, true where the connection becomes clean, or nil
// and why not
static int connect_channel(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.connect");
    rl_engine *e = rl_engine_of(L);
    rl_connection *connection = rl_check_connection_mayraise(L, 1);
    rl_server server = check_server_mayraise(L, 2);
    uint16_t port;
    luaL_argcheck(L, rl_to_port(L, 3, &port), 3, "a port is an integer from 0 to 65535");
    rl_bytes metadata = {0};
    if (!lua_isnoneornil(L, 4)) {
        luaL_checktype(L, 4, LUA_TTABLE);
        metadata = rl_push_metadata_mayraise(L, 4);
    }
    rl_tick(L, 2000);
    if (connection->is_forgotten) return refuse_mayraise(L, "not_found");
    rl_list *code = rl_fresh_list(e);
    int64_t channel = e->host.connect(e->host.context, connection->id, &server, port, metadata, code);
    if (channel <= 0) return answer_mayraise(L, channel == 0, code);
    lua_pushinteger(L, channel);
    return 1;
}

// MARK: Events

static int after_event(lua_State *L, int status, lua_KContext context) {
    (void)L;
    (void)status;
    (void)context;
    return 0;
}

// relay.emit(event, data): runs the hooks of event:NAME, here and now
static int emit(lua_State *L) {
    rl_check_serving_mayraise(L, "relay.emit");
    luaL_checktype(L, 1, LUA_TSTRING);
    lua_settop(L, 2);  // Stack: event data
    rl_push_slot(L, rl_engine_of(L), rl_slot_events);
    lua_pushvalue(L, 1);
    if (lua_rawget(L, -2) != LUA_TFUNCTION) return 0;
    lua_pushvalue(L, 2);  // Stack: event data events chain data
    lua_callk(L, 1, 0, 0, after_event);
    return 0;
}

void rl_add_registry_mayraise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"instruction", instruction}, {"on", on},                 {"install", install},
        {"uninstall", uninstall},     {"server", find_server},    {"pipe", pipe_connections},
        {"connect", connect_channel}, {"emit", emit},             {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}

// MARK: The active set

typedef struct event_request {
    rl_bytes name;
    int32_t chain;
} event_request;

// Stack: generation → (anything)
static int activate(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_push_slot(L, e, rl_slot_relay);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "generation");
    lua_newtable(L);
    lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_events]);
    return 0;
}

// Stack: request (light userdata) → (anything)
static int activate_event(lua_State *L) {
    event_request *request = lua_touserdata(L, 1);
    rl_push_slot(L, rl_engine_of(L), rl_slot_events);
    lua_pushlstring(L, request->name.start, request->name.count);
    lua_rawgeti(L, LUA_REGISTRYINDEX, request->chain);
    lua_rawset(L, -3);
    return 0;
}

/// Runs an engine's own step without the cap: it can only fail where malloc does, and then the change is half done.
static void run_uncapped(rl_engine *e, int arguments) {
    e->uncapped++;
    if (lua_pcall(e->main, arguments, 0, 0) != LUA_OK) abort();
    e->uncapped--;
}

void rl_activate(rl_engine *e, int64_t generation) {
    RL_ENTER(e);
    lua_pushcfunction(e->main, activate);
    lua_pushinteger(e->main, generation);
    run_uncapped(e, 1);
    RL_LEAVE(e);
}

void rl_activate_event(rl_engine *e, rl_bytes name, int32_t chain) {
    RL_ENTER(e);
    event_request request = {name, chain};
    lua_pushcfunction(e->main, activate_event);
    lua_pushlightuserdata(e->main, &request);
    run_uncapped(e, 1);
    RL_LEAVE(e);
}

void rl_release(rl_engine *e, int32_t function) {
    RL_ENTER(e);
    // A free slot holds a number, the next free one: releasing twice must not knot that list.
    bool isHeld = lua_rawgeti(e->main, LUA_REGISTRYINDEX, function) == LUA_TFUNCTION;
    lua_pop(e->main, 1);
    if (isHeld) luaL_unref(e->main, LUA_REGISTRYINDEX, function);
    RL_LEAVE(e);
}
