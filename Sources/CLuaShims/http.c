// relay.http: a request of the script's to a server elsewhere, for which its call sleeps.
//
// What is wrong with a request by its form is found here; whether it may be made, the host decides, and answers later.
#include <stdarg.h>
#include <string.h>

#include "engine.h"

#define RL_MAXIMUM_HEADERS 64
#define RL_MAXIMUM_HEADER_BYTES ((size_t)16 << 10)
#define RL_MAXIMUM_URL_BYTES ((size_t)8 << 10)
#define RL_MAXIMUM_REDIRECTS 5
#define RL_DEFAULT_TIMEOUT 10.0

/// For `return`.   Stack: … → … nil code message
static int refuse_mayraise(lua_State *L, const char *code, const char *format, ...) {
    lua_pushnil(L);
    lua_pushstring(L, code);
    va_list arguments;
    va_start(arguments, format);
    lua_pushvfstring(L, format, arguments);
    va_end(arguments);
    return 3;
}

// MARK: The request

/// A token of HTTP (RFC 9110 §5.6.2).
static bool is_token(rl_bytes text) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < text.count; i++) {
        char c = text.start[i];
        bool isAlphanumeric = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!isAlphanumeric && (c == 0 || strchr(others, c) == NULL)) return false;
    }
    return text.count > 0;
}

static bool equals(rl_bytes text, const char *lower) {
    size_t count = strlen(lower);
    return text.count == count && strncasecmp(text.start, lower, count) == 0;
}

/// Headers that say how the message travels: those are the client's to write.
static bool is_reserved(rl_bytes name) {
    static const char *const names[] = {"host", "content-length", "transfer-encoding", "connection", "keep-alive",
                                        "upgrade", "expect", "te", "trailer", "proxy-connection",
                                        "proxy-authorization"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (equals(name, names[i])) return true;
    }
    return false;
}

/// What is wrong with a method; NULL where nothing is.
static const char *wrong_method(rl_bytes method) {
    if (!is_token(method) || method.count > 32) return "method must be a word as GET";
    for (size_t i = 0; i < method.count; i++) {
        if (method.start[i] >= 'a' && method.start[i] <= 'z') return "method must be in upper case";
    }
    if (equals(method, "connect") || equals(method, "trace")) return "CONNECT and TRACE are not possible";
    return NULL;
}

/// Reads the table of headers at the top. Its strings stay its own, and live as long as the request table does.
/// Answers what is wrong, or NULL.   Stack: … headers → … headers
static const char *read_headers(lua_State *L, rl_bytes *headers, size_t *count) {
    size_t bytes = 0;
    lua_pushnil(L);
    while (lua_next(L, -2)) {  // Stack: … headers name value
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING) {
            return "headers must be a table of texts by name";
        }
        if (*count == RL_MAXIMUM_HEADERS) return "there are more than 64 headers";
        rl_bytes name, value;
        name.start = lua_tolstring(L, -2, &name.count);
        value.start = lua_tolstring(L, -1, &value.count);
        if (!is_token(name)) return "a header's name has other characters than a name may have";
        if (is_reserved(name)) return "host, content-length and what else frames a request cannot be given";
        for (size_t i = 0; i < value.count; i++) {
            unsigned char c = (unsigned char)value.start[i];
            if ((c < 0x20 && c != '\t') || c == 0x7f) return "a header's value has control characters";
        }
        bytes += name.count + value.count;
        if (bytes > RL_MAXIMUM_HEADER_BYTES) return "the headers have more than 16384 bytes together";
        headers[*count * 2] = name;
        headers[*count * 2 + 1] = value;
        (*count)++;
        lua_pop(L, 1);
    }
    return NULL;
}

/// Reads one field. Answers what is wrong, or NULL.   Stack: … key value
static const char *read_field(lua_State *L, rl_http_request *request, rl_bytes *headers) {
    const char *key = lua_tostring(L, -2);
    bool isText = lua_type(L, -1) == LUA_TSTRING;
    rl_bytes text = {NULL, 0};
    if (isText) text.start = lua_tolstring(L, -1, &text.count);
    if (strcmp(key, "method") == 0) {
        if (!isText) return "method must be a text";
        request->method = text;
        return wrong_method(text);
    } else if (strcmp(key, "url") == 0) {
        if (!isText || text.count > RL_MAXIMUM_URL_BYTES) return "url must be a text of at most 8192 bytes";
        if (memchr(text.start, 0, text.count) != NULL) return "url has a NUL";
        request->url = text;
    } else if (strcmp(key, "body") == 0) {
        if (!isText) return "body must be a text";
        request->body = text;
    } else if (strcmp(key, "headers") == 0) {
        if (!lua_istable(L, -1)) return "headers must be a table of texts by name";
        return read_headers(L, headers, &request->header_count);
    } else if (strcmp(key, "timeout") == 0) {
        if (lua_type(L, -1) != LUA_TNUMBER || !(lua_tonumber(L, -1) > 0)) return "timeout must be above 0 seconds";
        request->timeout = lua_tonumber(L, -1);
    } else if (strcmp(key, "redirects") == 0) {
        int isInteger;
        lua_Integer redirects = lua_tointegerx(L, -1, &isInteger);
        if (!isInteger || redirects < 0 || redirects > RL_MAXIMUM_REDIRECTS) return "redirects must be 0 to 5";
        request->redirects = (int32_t)redirects;
    } else {
        return "there are method, url, headers, body, timeout and redirects, and no other field";
    }
    return NULL;
}

// MARK: The answer

/// Pushes a table of the headers, which come as name, NUL, value, NUL, ….   Stack: … → … headers
static void push_headers_mayraise(lua_State *L, rl_bytes headers) {
    lua_newtable(L);
    const char *at = headers.start, *end = at == NULL ? NULL : at + headers.count;
    while (at < end) {
        size_t name = strlen(at), value = strlen(at + name + 1);
        lua_pushlstring(L, at, name);
        lua_pushlstring(L, at + name + 1, value);
        lua_rawset(L, -3);
        at += name + value + 2;
    }
}

// The call goes on.   Stack: (empty) → status headers body, or nil code message status
static int answered(lua_State *L, int status, lua_KContext context) {
    (void)status;
    (void)context;
    const rl_http_answer *answer = rl_engine_of(L)->answer;
    if (answer == NULL) return luaL_error(L, "the relay went on without an answer");
    if (answer->code.start != NULL) {
        lua_pushnil(L);
        lua_pushlstring(L, answer->code.start, answer->code.count);
        lua_pushlstring(L, answer->message.start, answer->message.count);
        if (answer->status == 0) return 3;
        lua_pushinteger(L, answer->status);
        return 4;
    }
    rl_tick(L, 500 + (answer->headers.count + answer->body.count) / 8);
    lua_pushinteger(L, answer->status);
    push_headers_mayraise(L, answer->headers);
    lua_pushlstring(L, answer->body.start, answer->body.count);
    return 3;
}

const rl_outcome *rl_answered(rl_engine *e, uint64_t request, const rl_http_answer *answer) {
    RL_ENTER(e);
    lua_State *L = e->main;
    const rl_outcome *ended = NULL;
    rl_push_slot(L, e, rl_slot_requests);
    if (lua_rawgeti(L, -1, (lua_Integer)request) == LUA_TLIGHTUSERDATA) {  // Stack: requests sleeper
        rl_call_state *call = lua_touserdata(L, -1);
        lua_pushnil(L);
        lua_rawseti(L, -3, (lua_Integer)request);  // The key exists: nothing is allocated, nothing raises.
        e->answer = answer;
        ended = rl_wake(e, call);
        e->answer = NULL;
    }
    lua_pop(L, 2);
    RL_LEAVE(e);
    return ended;
}

// MARK: relay.http

// relay.http{method=, url=, headers=, body=, timeout=, redirects=}
// Stack: request → status headers body, or nil code message [status]
static int http(lua_State *L) {
    rl_engine *e = rl_engine_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    double left = rl_check_sleep_mayraise(L, "relay.http");
    rl_bytes headers[RL_MAXIMUM_HEADERS * 2];
    rl_http_request request = {
        .method = rl_text("GET", 3), .headers = headers, .timeout = RL_DEFAULT_TIMEOUT,
    };
    lua_pushnil(L);
    while (lua_next(L, 1)) {  // Stack: request key value
        bool isNamed = lua_type(L, -2) == LUA_TSTRING;
        const char *wrong = isNamed ? read_field(L, &request, headers) : "an array is no request";
        if (wrong != NULL) return refuse_mayraise(L, "bad_parameters", "relay.http: %s", wrong);
        lua_pop(L, 1);
    }
    if (request.url.start == NULL) return refuse_mayraise(L, "bad_parameters", "relay.http: there is no url");
    if (!rl_spend_output(L, e, request.body.count)) return rl_leave_mayraise(L);
    rl_tick(L, 3000 + request.body.count / 8);
    if (request.timeout > left) request.timeout = left;
    uint64_t id = 0;
    rl_list *refusal = rl_fresh_list(e);
    if (!e->host.http(e->host.context, &request, &id, refusal)) {
        lua_pushnil(L);
        size_t next = rl_push_item_mayraise(L, refusal, 0);
        if (next == 0 || rl_push_item_mayraise(L, refusal, next) == 0) return luaL_error(L, "not enough memory");
        return 3;
    }
    rl_push_slot(L, e, rl_slot_requests);
    e->uncapped++;  // A raise now would leave a request under way that nobody knows.
    lua_pushlightuserdata(L, e->call);
    lua_rawseti(L, -2, (lua_Integer)id);
    e->uncapped--;
    lua_settop(L, 0);
    e->call->is_overdue = false;
    e->sleeping = true;
    return lua_yieldk(L, 0, 0, answered);
}

void rl_add_http_mayraise(lua_State *L) {
    lua_pushcfunction(L, http);
    lua_setfield(L, -2, "http");
}
