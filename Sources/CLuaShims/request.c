// HTTP requests: the table that request hooks get, and the response that one of them makes.
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/// The lines of a response's head that a script gives, and their number.
#define RL_MAXIMUM_FIELD_BYTES ((size_t)64 << 10)
#define RL_MAXIMUM_FIELDS 100

// MARK: The request

// request.may(right). Upvalues: connection, serial
static int may(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    size_t count;
    const char *right = luaL_checklstring(L, 1, &count);
    rl_tick(L, 500 + count);
    int32_t answer = e->host.may(
        e->host.context, (uint64_t)lua_tointeger(L, lua_upvalueindex(1)),
        (uint64_t)lua_tointeger(L, lua_upvalueindex(2)), rl_text(right, count));
    luaL_argcheck(L, answer >= 0, 1, "a right is admin, listen:SERVER, connect:SERVER:PORT or invoke:NAME");
    lua_pushboolean(L, answer);
    return 1;
}

void rl_push_http_request_mayraise(lua_State *L, rl_engine *e) {
    const rl_request *r = &e->request;
    rl_push_request_mayraise(L, r->connection);
    lua_pushnil(L);  // It is the request's for as long as that lasts, and nothing to hold on to.
    lua_setfield(L, -2, "connection");
    lua_pushlstring(L, r->method.start, r->method.count);
    lua_setfield(L, -2, "method");
    lua_pushlstring(L, r->bytes.start, r->bytes.count);
    lua_setfield(L, -2, "body");
    lua_pushinteger(L, (lua_Integer)r->connection);
    lua_pushinteger(L, r->number);
    lua_pushcclosure(L, may, 2);
    lua_setfield(L, -2, "may");
}

// MARK: The response

/// `tchar` of RFC 9110 §5.6.2.
static bool is_token(const char *name, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char c = name[i];
        bool isAlphanumeric = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!isAlphanumeric && (c == 0 || strchr("!#$%&'*+-.^_`|~", c) == NULL)) return false;
    }
    return count > 0;
}

static bool equals(const char *name, size_t count, const char *lower) {
    if (strlen(lower) != count) return false;
    for (size_t i = 0; i < count; i++) {
        char c = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] | 0x20) : name[i];
        if (c != lower[i]) return false;
    }
    return true;
}

/// Those that frame a message, belong to the connection (RFC 9110 §7.6.1), or are in every answer (§6.6.1).
static void check_name_mayraise(lua_State *L, const char *name, size_t count) {
    static const char *const ours[] = {
        "connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade", NULL};
    if (!is_token(name, count)) luaL_error(L, "a header's name has a character that no token has");
    for (int i = 0; ours[i] != NULL; i++) {
        if (equals(name, count, ours[i])) luaL_error(L, "the header '%s' is the relay's to set", ours[i]);
    }
}

/// The lines, while they are written into the engine's buffer.
typedef struct field_list {
    rl_engine *engine;
    size_t bytes;
    int count;
    bool has_type;
} field_list;

static void append_mayraise(lua_State *L, field_list *fields, const char *text, size_t count) {
    rl_engine *e = fields->engine;
    if (e->buffer_capacity - fields->bytes < count) {
        size_t capacity = (fields->bytes + count) * 2;
        char *grown = realloc(e->buffer, capacity);
        if (grown == NULL) luaL_error(L, "not enough memory for the response's header");
        e->buffer = grown;
        e->buffer_capacity = capacity;
    }
    memcpy(e->buffer + fields->bytes, text, count);
    fields->bytes += count;
}

/// Appends one line, whose value is at `index`.
static void add_line_mayraise(lua_State *L, field_list *fields, const char *name, size_t nameCount, int index) {
    if (lua_type(L, index) != LUA_TSTRING && !lua_isinteger(L, index)) {
        luaL_error(L, "the header '%s' is a text or a list of texts, not a %s", name, luaL_typename(L, index));
    }
    size_t count;
    const char *value = lua_tolstring(L, index, &count);
    if (++fields->count > RL_MAXIMUM_FIELDS || fields->bytes + nameCount + count + 4 > RL_MAXIMUM_FIELD_BYTES) {
        luaL_error(L, "a response has at most %d header lines, and %d bytes of them", RL_MAXIMUM_FIELDS,
                   (int)RL_MAXIMUM_FIELD_BYTES);
    }
    for (size_t i = 0; i < count; i++) {
        unsigned char c = (unsigned char)value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7F) {
            luaL_error(L, "the header '%s' has a control character in its value", name);
        }
    }
    append_mayraise(L, fields, name, nameCount);
    append_mayraise(L, fields, ": ", 2);
    append_mayraise(L, fields, value, count);
    append_mayraise(L, fields, "\r\n", 2);
}

/// Writes the lines of the table at 2.   Stack: status headers body → …
static void read_fields_mayraise(lua_State *L, field_list *fields) {
    if (lua_isnil(L, 2)) return;
    if (!lua_istable(L, 2)) luaL_error(L, "the headers of a response are a table, not a %s", luaL_typename(L, 2));
    lua_pushnil(L);
    while (lua_next(L, 2)) {  // Stack: status headers body name value
        if (lua_type(L, 4) != LUA_TSTRING) {
            luaL_error(L, "the name of a header is a text, not a %s", luaL_typename(L, 4));
        }
        size_t count;
        const char *name = lua_tolstring(L, 4, &count);
        check_name_mayraise(L, name, count);
        if (equals(name, count, "content-type")) fields->has_type = true;
        rl_tick(L, 100 + count);
        if (lua_istable(L, 5)) {
            lua_Integer items = (lua_Integer)lua_rawlen(L, 5);
            for (lua_Integer i = 1; i <= items; i++) {
                lua_rawgeti(L, 5, i);
                add_line_mayraise(L, fields, name, count, 6);
                lua_settop(L, 5);
            }
        } else {
            add_line_mayraise(L, fields, name, count, 5);
        }
        lua_settop(L, 4);
    }
}

void rl_read_response_mayraise(lua_State *L, rl_engine *e) {
    if (!lua_isinteger(L, 1) || lua_tointeger(L, 1) < 200 || lua_tointeger(L, 1) > 599) {
        luaL_error(L, "a request hook answers with a status from 200 to 599, not %s", luaL_tolstring(L, 1, NULL));
    }
    lua_Integer status = lua_tointeger(L, 1);
    lua_settop(L, 3);
    if (!lua_isnil(L, 3) && lua_type(L, 3) != LUA_TSTRING) {
        luaL_error(L, "the body of a response is a text, not a %s", luaL_typename(L, 3));
    }
    size_t count = 0;
    const char *body = lua_isnil(L, 3) ? "" : lua_tolstring(L, 3, &count);
    if (count > 0 && (status == 204 || status == 205 || status == 304)) {
        luaL_error(L, "a response of the status %d has no body", (int)status);
    }
    field_list fields = {.engine = e};
    read_fields_mayraise(L, &fields);
    // A browser that is told nothing guesses, and may take for a page what is none.
    static const char plain[] = "Content-Type: text/plain; charset=utf-8\r\n";
    if (count > 0 && !fields.has_type) append_mayraise(L, &fields, plain, sizeof(plain) - 1);
    if (fields.bytes + count > e->budgets.output_bytes) {
        rl_raise(L, rl_code_output, "output exceeded: the response has %d bytes, more than one call may send "
                 "(outputBytesPerCall)", (int)(fields.bytes + count));
    }
    rl_tick(L, count / 16);
    lua_rawseti(L, LUA_REGISTRYINDEX, e->slots[rl_slot_result]);  // What is lent stays.
    e->outcome.status = rl_status_responded;
    e->outcome.refusal = (int32_t)status;
    e->outcome.text = rl_text(body, count);
    e->outcome.line_text = rl_text(fields.bytes > 0 ? e->buffer : "", fields.bytes);
}
