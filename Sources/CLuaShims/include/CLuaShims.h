// What Swift sees of Lua: nothing but this engine.
//
// No function here raises a Lua error, so a longjmp never crosses a Swift frame: whatever can raise runs in C, inside a
// coroutine or under lua_pcall. In the other direction C calls Swift only through `rl_host`, whose functions answer by
// value and call nothing of this file but rl_list_append.
//
// Every function is called on one thread at a time, and none while another of the same engine runs.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

typedef struct rl_engine rl_engine;

/// Bytes lent to the callee, or by an engine until its next call; not terminated. `start` is NULL where there are none.
typedef struct rl_bytes {
    const char *_Nullable start;
    size_t count;
} rl_bytes;

// MARK: Outcomes

/// Why a script failed; the numbers mirror Relay's ErrorCode.
typedef enum __attribute__((enum_extensibility(closed))) rl_code {
    rl_code_none = 0,
    rl_code_compile,
    rl_code_script,
    rl_code_budget,
    rl_code_memory,
    rl_code_output,
    rl_code_parameters,
    rl_code_internal,
} rl_code;

typedef enum __attribute__((enum_extensibility(closed))) rl_status {
    rl_status_returned = 0,
    rl_status_refused,
    rl_status_suspended,
    rl_status_failed,
    // Of connect hooks only:
    rl_status_connect_undecided,
    rl_status_connect_allowed,
    rl_status_connect_refused,
    // Of request hooks only, which end in `returned` where none has an answer:
    rl_status_responded,
} rl_status;

/// A server id: a name where `name.start` is not NULL, else a number.
typedef struct rl_server {
    rl_bytes name;
    int64_t number;
} rl_server;

/// How a call ended. Lent until the engine's next call.
typedef struct rl_outcome {
    rl_status status;
    /// returned: JSON text, `start` NULL where it was not wanted. refused, connect_refused: the reason. failed: the
    /// message. connect_allowed: the metadata as JSON text, `start` NULL where there is none. responded: the body.
    rl_bytes text;
    /// returned: what the result is in a line for people, where the function gave one beside it. responded: the lines
    /// of the head that the script gives.
    rl_bytes line_text;
    /// refused, connect_refused, responded: the HTTP status.
    int32_t refusal;
    /// connect_allowed: the port, -1 where it stays the same; and the server, where it is another one.
    int32_t port;
    bool has_server;
    rl_server server;
    /// failed: why, where (line 0: not known) and the way there.
    rl_code code;
    int32_t line;
    rl_bytes file;
    rl_bytes traceback;
    /// The hook that failed, for `unattended_failure` from a chain; `start` NULL where it was the call itself.
    rl_bytes hook;
    /// Whose call it was: the id that rl_call was given.
    uint64_t call;
} rl_outcome;

// MARK: What the relay does for scripts

/// Strings that a host function hands back. C copies them into Lua when the host function has returned.
typedef struct rl_list rl_list;
/// False where memory is out; the list then answers nothing.
bool rl_list_append(rl_list *list, const char *_Nullable bytes, size_t count);

/// Facts of a connection. The strings come in this order: app, remote address, path, query, subprotocol, TLS version
/// (empty where the flag is false), then name and value of each header.
typedef struct rl_facts {
    int32_t remote_port;
    int32_t port;
    bool is_admin;
    bool has_subprotocol;
    bool has_tls;
} rl_facts;

/// What relay.http asks for. The texts are lent; `body.start` is NULL where there is none.
typedef struct rl_http_request {
    rl_bytes method;
    rl_bytes url;
    rl_bytes body;
    /// name, value, name, value …, `header_count` pairs.
    const rl_bytes *headers;
    size_t header_count;
    double timeout;
    int32_t redirects;
} rl_http_request;

typedef struct rl_host {
    /// Handed to every function below as its first argument.
    void *_Nullable context;
    /// 0 queued, 1 queued above the high watermark, 2 dropped.
    int32_t (*send)(void *_Nullable context, uint64_t connection, rl_bytes bytes, bool is_text);
    bool (*close)(void *_Nullable context, uint64_t connection, uint16_t code, rl_bytes reason);
    bool (*is_open)(void *_Nullable context, uint64_t connection);
    /// False where the connection is not known.
    bool (*facts)(void *_Nullable context, uint64_t connection, rl_facts *facts, rl_list *strings);
    /// 1 when done; 0 where not, and the code why not is appended to `code`; -1 where `ports` is no set of ports. Its
    /// `start` is NULL for all ports.
    int32_t (*install)(
        void *_Nullable context, const rl_server *server, uint64_t connection, bool replaces, rl_bytes ports,
        rl_list *code);
    bool (*uninstall)(void *_Nullable context, const rl_server *server);
    /// 0 where no connection is installed under the id.
    uint64_t (*server)(void *_Nullable context, const rl_server *server);
    /// True when done; else the code why not is appended to `code`.
    bool (*pipe)(void *_Nullable context, uint64_t one, uint64_t other, rl_list *code);
    /// The channel's number, 0 where the connection becomes clean; -1 where there is none, and the code why not is
    /// appended to `code`. `metadata` is JSON; its `start` is NULL where there is none.
    int64_t (*connect)(
        void *_Nullable context, uint64_t connection, const rl_server *server, uint16_t port, rl_bytes metadata,
        rl_list *code);
    /// Whether the credential of a request allows this: 1 or 0, -1 where it is no right.
    int32_t (*may)(void *_Nullable context, uint64_t connection, uint64_t request, rl_bytes right);
    /// Both are false where the connection is not open.
    bool (*hold)(void *_Nullable context, uint64_t connection, bool is_held);
    bool (*take_messages)(void *_Nullable context, uint64_t connection);
    /// False where the request is refused: code and message are appended to `refusal`. Else rl_answered follows.
    bool (*http)(void *_Nullable context, const rl_http_request *request, uint64_t *id, rl_list *refusal);
    /// The channel's id; 0 where there is none, and the code why not is appended to `code`. `functions` are those for
    /// open, message and close, not positive where there is none: the host's to release, unless there is no channel.
    uint64_t (*dial)(
        void *_Nullable context, const rl_server *server, uint16_t port, const int32_t *functions, rl_bytes metadata,
        rl_list *code);
    /// False where the app has too many.
    bool (*schedule)(void *_Nullable context, double seconds, bool repeats, uint64_t *timer);
    void (*cancel)(void *_Nullable context, uint64_t timer);
    /// A function that no caller waits for has failed.
    void (*unattended_failure)(void *_Nullable context, const rl_outcome *outcome);
    /// `fields` are name, value, name, value …, `count` of them. Level: 0 debug, 1 info, 2 warning, 3 error.
    void (*log)(
        void *_Nullable context, int32_t level, rl_bytes message, const rl_bytes *_Nullable fields, size_t count);
    double (*wall_clock)(void *_Nullable context);
    double (*monotonic)(void *_Nullable context);
    void (*random_bytes)(void *_Nullable context, uint8_t *bytes, size_t count);
    /// Both write 32 bytes.
    void (*sha256)(void *_Nullable context, rl_bytes bytes, uint8_t *digest);
    void (*hmac_sha256)(void *_Nullable context, rl_bytes key, rl_bytes bytes, uint8_t *digest);
    bool (*equal)(void *_Nullable context, rl_bytes a, rl_bytes b);
    /// Appends one JSON object.
    void (*config)(void *_Nullable context, rl_list *json);
} rl_host;

// MARK: Life of an engine

typedef struct rl_budgets {
    int64_t burst_nanoseconds;
    int64_t call_nanoseconds;
    int64_t load_nanoseconds;
    size_t memory_bytes;
    size_t output_bytes;
} rl_budgets;

/// NULL where memory is out, or the budget is too small for the libraries. Calls no host function.
rl_engine *_Nullable rl_engine_create(const rl_host *host, const rl_budgets *budgets);
/// What host functions get as their context.
void rl_engine_set_context(rl_engine *engine, void *context);
/// Frees the state on a thread of its own where that is possible, since a large one takes a while. Calls no host
/// function any more, from now on.
void rl_engine_destroy(rl_engine *engine);
/// Holds from the next call on; memory at once.
void rl_engine_set_budgets(rl_engine *engine, const rl_budgets *budgets);
size_t rl_engine_memory_bytes(const rl_engine *engine);
/// For tests: the `nth` allocation from now that needs more memory fails, and all that follow. 0 switches it off.
void rl_engine_fail_allocation(rl_engine *engine, size_t nth);
/// For tests: true when rl_engine_fail_allocation has struck since it was set.
bool rl_engine_allocation_failed(const rl_engine *engine);

// MARK: Changes

typedef enum __attribute__((enum_extensibility(closed))) rl_unit_kind {
    rl_unit_script = 0,
    rl_unit_instruction,
    rl_unit_module,
} rl_unit_kind;

/// One thing that a unit defines: an instruction, or a hook (`name` is then what relay.on was given).
typedef struct rl_registration {
    bool is_hook;
    bool is_public;
    rl_bytes name;
    rl_bytes summary;
    int32_t function;
} rl_registration;

/// Compiles and runs a text aside. Answers `returned` with the unit's id in `*unit`, or `failed`.
const rl_outcome *rl_stage(
    rl_engine *engine, rl_unit_kind kind, rl_bytes name, rl_bytes source, bool is_public, int32_t *unit);
/// The unit's registration at `index`, lent until the unit is committed or discarded; false behind the last.
bool rl_unit_registration(rl_engine *engine, int32_t unit, size_t index, rl_registration *registration);
/// Runs the unit's reload hooks, still aside.
const rl_outcome *rl_unit_reload(rl_engine *engine, int32_t unit, int64_t previous_generation);
void rl_unit_commit(rl_engine *engine, int32_t unit);
void rl_unit_discard(rl_engine *engine, int32_t unit);

// MARK: Functions and calls

/// What a call hands to its function; the numbers also name the points of chains.
typedef enum __attribute__((enum_extensibility(closed))) rl_call_kind {
    rl_call_instruction = 0,
    rl_call_handshake,
    rl_call_open,
    rl_call_message,
    rl_call_connect,
    rl_call_request,
    rl_call_close,
    rl_call_reload,
    rl_call_event,
    rl_call_timer,
    rl_call_evaluate,
} rl_call_kind;

/// One function that runs `functions` in order; 0 where memory is out.
int32_t rl_chain(rl_engine *engine, rl_call_kind point, rl_bytes name, const int32_t *functions, size_t count);
void rl_release(rl_engine *engine, int32_t function);
/// Begins a new active set: its number, and no chains for events yet.
void rl_activate(rl_engine *engine, int64_t generation);
void rl_activate_event(rl_engine *engine, rl_bytes name, int32_t chain);

typedef struct rl_request {
    rl_call_kind kind;
    int32_t function;
    uint64_t call;
    uint64_t connection;
    /// instruction: parameters as JSON; message: its bytes; close: the reason; event: JSON; evaluate: the chunk;
    /// request: the body.
    rl_bytes bytes;
    /// close: the code; reload: the previous generation; message: 1 for text; connect: the port; request: its serial.
    int64_t number;
    /// connect: whom the client wants.
    rl_server server;
    /// request: its method.
    rl_bytes method;
    bool wants_result;
} rl_request;

const rl_outcome *rl_call(rl_engine *engine, const rl_request *request);
/// A timer has come due. NULL where no suspended call of `rl_call` ended by it; else how that call ended.
const rl_outcome *_Nullable rl_timer_fired(rl_engine *engine, uint64_t timer);
void rl_forget(rl_engine *engine, uint64_t connection);

/// What has become of an HTTP request: `code.start` is NULL where there is an answer, and `status` 0 where there is
/// none.
typedef struct rl_http_answer {
    int32_t status;
    /// name, NUL, value, NUL, name …
    rl_bytes headers;
    rl_bytes body;
    rl_bytes code;
    rl_bytes message;
} rl_http_answer;

/// As rl_timer_fired, for the call that waits for the request.
const rl_outcome *_Nullable rl_answered(rl_engine *engine, uint64_t request, const rl_http_answer *answer);
/// What `config` answers is another from now on.
void rl_configuration_changed(rl_engine *engine);

#pragma clang assume_nonnull end
