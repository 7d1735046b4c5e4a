// The connection object: one full userdata per connection, so that `servers[id] == conn` holds.
//
// User value 1 is `conn.data`, user value 2 the facts once a script has asked for one; the headers, which are the most
// of them, only once it has asked for these.
#include <string.h>

#include "engine.h"

/// The codes that a script may close with: of RFC 6455 §7.4 and the registry those that a server sends and that say
/// something about the application; 1002 is the relay's own to say, 1010 the client's, 1004 to 1006 are in no frame.
static bool may_close_with(lua_Integer code) {
    switch (code) {
        case 1000:
        case 1001:
        case 1003:
        case 1007 ... 1009:
        case 1011 ... 1013:
        case 3000 ... 4999: return true;
        default: return false;
    }
}

rl_connection *rl_to_connection(lua_State *L, int index) {
    rl_connection *connection = lua_touserdata(L, index);
    if (connection == NULL || !lua_getmetatable(L, index)) return NULL;
    bool matches = lua_topointer(L, -1) == rl_engine_of(L)->connection_metatable;
    lua_pop(L, 1);
    return matches ? connection : NULL;
}

rl_connection *rl_check_connection_mayraise(lua_State *L, int index) {
    rl_connection *connection = rl_to_connection(L, index);
    if (connection == NULL) luaL_typeerror(L, index, "connection");
    return connection;
}

void rl_push_connection_mayraise(lua_State *L, uint64_t id) {
    rl_engine *e = rl_engine_of(L);
    rl_push_slot(L, e, rl_slot_connections);
    if (lua_rawgeti(L, -1, (lua_Integer)id) != LUA_TNIL) {  // Stack: … connections connection
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 1);
    rl_connection *connection = lua_newuserdatauv(L, sizeof(*connection), 2);
    connection->id = id;
    connection->is_forgotten = false;
    rl_push_slot(L, e, rl_slot_connection_metatable);
    lua_setmetatable(L, -2);  // Stack: … connections connection
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, (lua_Integer)id);
    lua_remove(L, -2);
}

// MARK: Methods

bool rl_spend_output(lua_State *L, rl_engine *e, size_t count) {
    rl_call_state *call = e->call;
    size_t limit = e->budgets.output_bytes;
    if (count <= limit && call->output_bytes <= limit - count) {
        call->output_bytes += count;
        return true;
    }
    rl_stop_because(L, rl_code_output,
                    "output exceeded: sent more than %zu bytes in one call (outputBytesPerCall)", limit);
    return false;
}

/// From here on a send is worth the two system calls that tell how long it took.
#define RL_LARGE_MESSAGE ((size_t)64 << 10)

/// Upvalues 1 to 3: "queued", "backpressure", "dropped".   Stack: connection message
static int send_mayraise(lua_State *L, bool isText) {
    rl_engine *e = rl_engine_of(L);
    rl_connection *connection = rl_check_connection_mayraise(L, 1);
    size_t count;
    const char *message = luaL_checklstring(L, 2, &count);
    if (e->phase == rl_phase_loading) rl_check_serving_mayraise(L, isText ? "conn:send" : "conn:sendBinary");
    // An empty message is not free: its frame header is counted.
    if (!rl_spend_output(L, e, count > 0 ? count : 2)) return rl_leave_mayraise(L);
    rl_tick(L, 50 + count / 16);
    if (isText && !rl_is_utf8(message, count)) {
        return luaL_argerror(L, 2, "a text message must be valid UTF-8 (for bytes there is conn:sendBinary)");
    }
    int result = 2;
    if (!connection->is_forgotten) {
        // Much can fill the receiver's queue, and then the relay encrypts and sends it here and now.
        bool isLarge = count >= RL_LARGE_MESSAGE;
        int64_t start = isLarge ? rl_thread_time() : 0;
        result = e->host.send(e->host.context, connection->id, rl_text(message, count), isText);
        if (isLarge) rl_excuse(e, rl_thread_time() - start);
    }
    lua_pushvalue(L, lua_upvalueindex(result >= 0 && result <= 2 ? result + 1 : 3));
    return 1;
}

static int send_text(lua_State *L) { return send_mayraise(L, true); }
static int send_binary(lua_State *L) { return send_mayraise(L, false); }

// conn:close(code, reason): whether it was open
static int close_connection(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_connection *connection = rl_check_connection_mayraise(L, 1);
    rl_check_serving_mayraise(L, "conn:close");
    lua_Integer code = luaL_optinteger(L, 2, 1000);
    size_t count = 0;
    const char *reason = luaL_optlstring(L, 3, "", &count);
    luaL_argcheck(L, may_close_with(code), 2,
                  "a close code is 1000, 1001, 1003, 1007 to 1009, 1011 to 1013 or 3000 to 4999");
    luaL_argcheck(L, count <= 123, 3, "a close reason has at most 123 bytes");
    luaL_argcheck(L, rl_is_utf8(reason, count), 3, "a close reason must be valid UTF-8");
    bool closed = !connection->is_forgotten
        && e->host.close(e->host.context, connection->id, (uint16_t)code, rl_text(reason, count));
    lua_pushboolean(L, closed);
    return 1;
}

// conn:isOpen()
static int is_open(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_connection *connection = rl_check_connection_mayraise(L, 1);
    lua_pushboolean(L, !connection->is_forgotten && e->host.is_open(e->host.context, connection->id));
    return 1;
}

// conn:pause(), conn:resume(): whether it was open
static int hold_mayraise(lua_State *L, const char *function, bool isHeld) {
    rl_engine *e = rl_engine_of(L);
    rl_connection *connection = rl_check_connection_mayraise(L, 1);
    rl_check_serving_mayraise(L, function);
    lua_pushboolean(L, !connection->is_forgotten && e->host.hold(e->host.context, connection->id, isHeld));
    return 1;
}

static int pause_connection(lua_State *L) { return hold_mayraise(L, "conn:pause", true); }
static int resume_connection(lua_State *L) { return hold_mayraise(L, "conn:resume", false); }

// conn:takeMessages(): whether it was open
static int take_messages(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    rl_connection *connection = rl_check_connection_mayraise(L, 1);
    rl_check_serving_mayraise(L, "conn:takeMessages");
    lua_pushboolean(L, !connection->is_forgotten && e->host.take_messages(e->host.context, connection->id));
    return 1;
}

// MARK: Facts

/// Sets the next string of the list as a field.   Stack: … facts → … facts
static size_t set_item_mayraise(lua_State *L, const rl_list *list, size_t offset, const char *field, bool given) {
    offset = rl_push_item_mayraise(L, list, offset);
    if (offset == 0) luaL_error(L, "not enough memory for a connection's facts");
    if (given) lua_setfield(L, -2, field);
    else lua_pop(L, 1);
    return offset;
}

/// Asks the host. Pushes nil where it does not know the connection.   Stack: … → … (facts | nil)
static bool push_facts_mayraise(lua_State *L, uint64_t id, bool with_headers) {
    rl_engine *e = rl_engine_of(L);
    rl_facts facts = {0};
    rl_list *list = rl_fresh_list(e);
    if (!e->host.facts(e->host.context, id, &facts, list)) {
        lua_pushnil(L);
        return false;
    }
    lua_createtable(L, 0, 12);
    size_t at = set_item_mayraise(L, list, 0, "app", true);
    at = set_item_mayraise(L, list, at, "remoteAddress", true);
    at = set_item_mayraise(L, list, at, "path", true);
    at = set_item_mayraise(L, list, at, "query", true);
    at = set_item_mayraise(L, list, at, "subprotocol", facts.has_subprotocol);
    at = set_item_mayraise(L, list, at, "tls", facts.has_tls);
    lua_pushinteger(L, facts.remote_port);
    lua_setfield(L, -2, "remotePort");
    lua_pushinteger(L, facts.port);
    lua_setfield(L, -2, "port");
    lua_pushboolean(L, facts.is_admin);
    lua_setfield(L, -2, "isAdmin");
    if (!with_headers) return true;
    lua_newtable(L);  // Stack: … facts headers
    while (list->count > at) {
        at = rl_push_item_mayraise(L, list, at);
        if (at != 0) at = rl_push_item_mayraise(L, list, at);  // Stack: … facts headers name value
        if (at == 0) luaL_error(L, "not enough memory for a connection's facts");
        lua_rawset(L, -3);
    }
    lua_setfield(L, -2, "headers");
    return true;
}

void rl_push_request_mayraise(lua_State *L, uint64_t connection) {
    if (!push_facts_mayraise(L, connection, true)) {
        lua_pop(L, 1);
        lua_newtable(L);
    }
    lua_pushinteger(L, (lua_Integer)connection);
    lua_setfield(L, -2, "connection");
}

/// Reads a fact from the cache, which the first question fills, and the first for the headers once more. `isAdmin` can
/// change while the connection lives.   Stack: connection key → connection key … value
static int read_fact_mayraise(lua_State *L, const rl_connection *connection, bool cached) {
    bool wants_headers = strcmp(lua_tostring(L, 2), "headers") == 0;
    if (cached && lua_getiuservalue(L, 1, 2) == LUA_TTABLE) {  // Stack: connection key facts
        lua_pushvalue(L, 2);
        if (lua_rawget(L, -2) != LUA_TNIL || !wants_headers) return 1;
    }
    if (!push_facts_mayraise(L, connection->id, wants_headers)) return 1;  // Stack: connection key … nil
    if (cached) {
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, 2);
    }
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    return 1;
}

// __index. Upvalue 1: the methods, and for the names of facts true (cached) or false (asked for each time).
// Stack: connection key
static int index_connection(lua_State *L) {
    lua_pushvalue(L, 2);
    int type = lua_rawget(L, lua_upvalueindex(1));  // Stack: connection key (method | boolean | nil)
    if (type == LUA_TFUNCTION || type == LUA_TNIL) return 1;
    rl_connection *connection = rl_check_connection_mayraise(L, 1);
    const char *key = lua_tostring(L, 2);
    if (type == LUA_TBOOLEAN) {
        if (connection->is_forgotten) return 0;
        bool cached = lua_toboolean(L, 3);
        lua_settop(L, 2);
        return read_fact_mayraise(L, connection, cached);
    }
    if (strcmp(key, "id") == 0) {
        lua_pushinteger(L, (lua_Integer)connection->id);
        return 1;
    }
    if (lua_getiuservalue(L, 1, 1) != LUA_TNIL) return 1;  // data
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, 1);
    return 1;
}

// __newindex: only `data` can be assigned.   Stack: connection key value
static int assign_connection(lua_State *L) {
    rl_check_connection_mayraise(L, 1);
    if (lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "data") == 0) {
        lua_settop(L, 3);
        lua_setiuservalue(L, 1, 1);
        return 0;
    }
    return luaL_error(L, "a connection's fields cannot be assigned (conn.data is a table for the script)");
}

// __tostring
static int describe_connection(lua_State *L) {
    lua_pushfstring(L, "connection %I", (LUAI_UACINT)rl_check_connection_mayraise(L, 1)->id);
    return 1;
}

// MARK: Opening and forgetting

/// Stack: … → …
void rl_open_connections_mayraise(lua_State *L) {
    static const char *const cached[] = {"app",  "remoteAddress", "remotePort",  "path", "query",
                                         "headers", "port",       "subprotocol", "tls",  NULL};
    rl_engine *e = rl_engine_of(L);
    lua_newtable(L);
    e->connection_metatable = lua_topointer(L, -1);
    lua_newtable(L);  // Stack: … metatable members
    for (int binary = 0; binary < 2; binary++) {
        lua_pushliteral(L, "queued");
        lua_pushliteral(L, "backpressure");
        lua_pushliteral(L, "dropped");
        lua_pushcclosure(L, binary ? send_binary : send_text, 3);
        lua_setfield(L, -2, binary ? "sendBinary" : "send");
    }
    static const luaL_Reg methods[] = {
        {"close", close_connection},    {"isOpen", is_open},
        {"pause", pause_connection},    {"resume", resume_connection},
        {"takeMessages", take_messages}, {NULL, NULL},
    };
    luaL_setfuncs(L, methods, 0);
    for (int i = 0; cached[i] != NULL; i++) {
        lua_pushboolean(L, true);
        lua_setfield(L, -2, cached[i]);
    }
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "isAdmin");
    lua_pushinteger(L, 0);
    lua_setfield(L, -2, "id");
    lua_pushinteger(L, 0);
    lua_setfield(L, -2, "data");
    lua_pushcclosure(L, index_connection, 1);
    lua_setfield(L, -2, "__index");  // Stack: … metatable
    lua_pushcfunction(L, assign_connection);
    lua_setfield(L, -2, "__newindex");
    lua_pushcfunction(L, describe_connection);
    lua_setfield(L, -2, "__tostring");
    lua_pushliteral(L, "connection");
    lua_setfield(L, -2, "__name");
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "__metatable");
    lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_connection_metatable]);
}

void rl_forget(rl_engine *e, uint64_t id) {
    RL_ENTER(e);
    lua_State *L = e->main;
    rl_push_slot(L, e, rl_slot_connections);
    if (lua_rawgeti(L, -1, (lua_Integer)id) == LUA_TUSERDATA) {  // Stack: connections connection
        ((rl_connection *)lua_touserdata(L, -1))->is_forgotten = true;
        lua_pushnil(L);
        lua_setiuservalue(L, -2, 2);
        lua_pushnil(L);
        lua_rawseti(L, -3, (lua_Integer)id);  // The key exists: nothing is allocated, nothing raises.
    }
    lua_pop(L, 2);
    RL_LEAVE(e);
}
