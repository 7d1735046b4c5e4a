// The engine's own state, shared by the files of this folder.
//
// One lua_State per engine. Its main thread runs no script: every call, load and timer runs in a coroutine, so that the
// count hook can stop it by yielding, which no pcall of the script can catch.
#pragma once

#include <lauxlib.h>
#include <lua.h>

#include "CLuaShims.h"
#include "libraries.h"

/// A coroutine of the engine's and what belongs to the call that it runs. Kept for the next call.
typedef struct rl_call_state {
    /// Among the idle or the spare ones.
    struct rl_call_state *next;
    /// Among all of the engine's.
    struct rl_call_state *sibling;
    /// NULL where the last call's was thrown away. The registry holds it at `anchor`.
    lua_State *thread;
    int anchor;
    rl_call_kind kind;
    bool wants_result;
    uint64_t id;
    /// When the call's time is over; 0 as long as the clock has not been read for it.
    int64_t deadline;
    /// It sleeps until its time is over, and is only woken to be told.
    bool is_overdue;
    size_t output_bytes;
} rl_call_state;

typedef enum rl_phase {
    /// Instructions, hooks, timers.
    rl_phase_serving = 0,
    /// A unit's text runs: it registers, and has no effect outside.
    rl_phase_loading,
    /// A unit's reload hooks run.
    rl_phase_reloading,
} rl_phase;

/// Where the registry keeps what C needs by number: one lua_rawgeti, no string.
typedef enum rl_slot {
    /// id → connection (full userdata).
    rl_slot_connections = 0,
    rl_slot_connection_metatable,
    /// id → function, or light userdata of a sleeping rl_call_state.
    rl_slot_timers,
    /// id → light userdata of the rl_call_state that waits for its HTTP request.
    rl_slot_requests,
    /// id → unit, see stage.c.
    rl_slot_units,
    /// Module name → value.
    rl_slot_modules,
    /// Event name → chain.
    rl_slot_events,
    rl_slot_libraries,
    rl_slot_globals,
    /// The inner `relay` table, behind its read-only face.
    rl_slot_relay,
    /// Anchors the JSON text of the last result.
    rl_slot_result,
    rl_slot_count,
} rl_slot;

#define RL_LARGE_STRINGS 64

struct rl_list {
    char *bytes;
    size_t count;
    size_t capacity;
    bool failed;
};

struct rl_engine {
    lua_State *main;
    rl_host host;
    rl_budgets budgets;
    int slots[rl_slot_count];

    // Memory (memory.c)
    size_t memory_used;
    /// Above zero, the cap does not hold: the engine itself is at work.
    int uncapped;
    /// Refusals since the last allocation that succeeded. Lua collects after the first and tries again.
    int refusals;
    size_t growth;
    struct {
        void *block;
        size_t bytes;
    } large[RL_LARGE_STRINGS];
    int large_count;
    bool large_overflow;
    size_t fail_countdown;
    bool failed_on_purpose;

    // The running call (budget.c)
    rl_call_state *call;
    /// The Lua thread that executes now; NULL outside of calls.
    lua_State *running;
    /// The thread that may sleep: the call's own, or the one that a chain of hooks made in it. NULL where none may.
    lua_State *active;
    /// On the wall clock, which is cheap to read; when it is over, this thread's CPU time since `burst_start` decides.
    int64_t burst_deadline;
    int64_t burst_start;
    int64_t call_deadline;
    size_t ticks_left;
    int period;
    /// An allocation failed in this call, whether the script noticed or not.
    bool memory_failed;
    /// Hooks of this call that were stopped and followed by others.
    int restarts;
    /// Not `none` once the call has to end. Only the engine takes it back.
    rl_code stopped;
    char stop_message[512];
    bool sleeping;
    int close_depth;
    /// An error object is being asked for its text.
    bool is_asking;

    /// While the call that waited for it is being woken (http.c).
    const rl_http_answer *answer;

    // The call's request and outcome (call.c, failure.c)
    rl_request request;
    /// What an error raised by the engine's own code means; `none`: a script error.
    rl_code raising;
    rl_outcome outcome;
    char message[1024];
    char file[128];
    char traceback[4096];
    char reason[256];
    char *buffer;
    size_t buffer_capacity;
    rl_list list;

    // Loads (stage.c)
    rl_phase phase;
    int32_t unit;
    int32_t last_unit;
    uint64_t *unit_timers;
    size_t unit_timer_count;
    size_t unit_timer_capacity;

    // Coroutines
    rl_call_state *calls;
    rl_call_state *idle;
    rl_call_state *spare;
    int idle_count;

    const void *connection_metatable;
};

/// The engine of a thread. The word beside each lua_State holds it, with the lowest bit set for threads that the engine
/// made: scripts may look at those but not resume, yield or close them.
static inline rl_engine *rl_engine_of(lua_State *L) {
    return (rl_engine *)(*(uintptr_t *)lua_getextraspace(L) & ~(uintptr_t)3);
}
static inline bool rl_is_engine_thread(lua_State *L) { return *(uintptr_t *)lua_getextraspace(L) & 1; }
static inline void rl_mark_engine_thread(lua_State *L) { *(uintptr_t *)lua_getextraspace(L) |= 1; }
/// The next bit marks a thread in which the hook has raised. If it dies of that, Lua never switches its hooks on again,
/// and what runs in it later (a __close) could not be stopped: such a thread is not closed.
static inline bool rl_has_hooks_off(lua_State *L) { return *(uintptr_t *)lua_getextraspace(L) & 2; }
static inline void rl_set_hooks_off(lua_State *L, bool off) {
    *(uintptr_t *)lua_getextraspace(L) = (*(uintptr_t *)lua_getextraspace(L) & ~(uintptr_t)2) | (off ? 2 : 0);
}

/// Pushes what a slot holds.   Stack: … → … value
static inline int rl_push_slot(lua_State *L, rl_engine *e, rl_slot slot) {
    return lua_rawgeti(L, LUA_REGISTRYINDEX, e->slots[slot]);
}

static inline rl_bytes rl_text(const char *start, size_t count) { return (rl_bytes){start, count}; }

// Checks at the boundary: what comes from Swift leaves the main thread's stack as it found it.
void rl_check_height(rl_engine *e, int height);
#define RL_ENTER(e) int rl_height = lua_gettop((e)->main)
#define RL_LEAVE(e) rl_check_height((e), rl_height)

// MARK: memory.c
void *rl_allocate(void *engine, void *block, size_t old_size, size_t new_size);

// MARK: budget.c
void rl_hook(lua_State *L, lua_Debug *ar);
void rl_begin(rl_engine *e, rl_call_state *call);
void rl_end(rl_engine *e);
/// Gives the running call a fresh burst, after one of several hooks was stopped.
void rl_restart_burst(rl_engine *e);
/// Marks the running call as ended by the engine; `format` is what comes behind `file:line: `.
void rl_stop_because(lua_State *L, rl_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/// Leaves the running C function towards the engine: yields where that is possible, else raises. For `return`.
int rl_leave_mayraise(lua_State *L);
/// Makes a thread look at the clock as often as the engine now wants.
void rl_arm(rl_engine *e, lua_State *thread, int period);
int64_t rl_now(void);
/// Nanoseconds that this thread has run.
int64_t rl_thread_time(void);
/// Work of the relay's own within a call is not the script's.
void rl_excuse(rl_engine *e, int64_t nanoseconds);

// MARK: threads.c
/// A coroutine with its call state, from the idle ones where there is one; NULL where memory is out.
rl_call_state *rl_take_call(rl_engine *e);
/// Gives a finished call's coroutine back; `reusable` false throws it away.
void rl_return_call(rl_engine *e, rl_call_state *call, bool reusable);
/// Runs a thread until it ends or yields, and keeps `running` right.
int rl_resume(rl_engine *e, lua_State *thread, lua_State *from, int arguments, int *results);
/// Runs the pending to-be-closed variables of a thread that failed; answers false where it went wrong again.
bool rl_close_thread(rl_engine *e, lua_State *thread);

// MARK: environment.c
/// Stack: … → … environment removed
void rl_push_environment_mayraise(lua_State *L);
/// Copies what a unit has assigned into the globals, and makes the environment one with them.
/// Stack: … environment removed → … G
void rl_commit_environment_mayraise(lua_State *L);

// MARK: failure.c
/// Fills the outcome from a thread that failed with `status`, or was stopped.
void rl_describe_failure(rl_engine *e, lua_State *failed, int status);
/// Fills the outcome with a failure of a sentence of our own.
void rl_fail(rl_engine *e, rl_code code, const char *message);
/// Raises an error whose code is not script_error.
int rl_raise(lua_State *L, rl_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));

// MARK: call.c
const rl_outcome *rl_run(rl_engine *e, rl_call_state *call, int arguments);

/// Goes on with a call that slept. NULL where it sleeps again, or nobody waits for it; else how it ended.
const rl_outcome *rl_wake(rl_engine *e, rl_call_state *call);

// MARK: parameters.c
/// Pushes the parameters; answers how many.   Stack: … → … p1 p2 …
int rl_push_parameters_mayraise(lua_State *L, const char *text, size_t count);

// MARK: result.c
/// Makes the value at `index` the outcome's JSON text.
void rl_encode_result_mayraise(lua_State *L, rl_engine *e, int index);
/// Pushes the table at `index` as what the server gets as metadata: JSON text of at most 4 KiB.   Stack: … → … text
rl_bytes rl_push_metadata_mayraise(lua_State *L, int index);

// MARK: decision.c
/// What a handshake hook says with `false, status, reason`.   Stack: refused status reason
void rl_read_refusal_mayraise(lua_State *L, rl_engine *e);
/// What connect hooks say; `f` is the one that decided.   Stack: first second third f → (anything)
void rl_read_connect_mayraise(lua_State *L, rl_engine *e);
/// What request hooks say; `f` is the one that did.   Stack: first second third f → (anything)
void rl_read_answer_mayraise(lua_State *L);

// MARK: request.c
/// Pushes the request that the call is about.   Stack: … → … request
void rl_push_http_request_mayraise(lua_State *L, rl_engine *e);
/// Makes a hook's response the outcome.   Stack: status headers body → (anything)
void rl_read_response_mayraise(lua_State *L, rl_engine *e);

// MARK: timers.c
/// Drops what the engine keeps for a timer.
void rl_forget_timer(lua_State *L, uint64_t timer);
/// Raises where the running function cannot sleep. Answers the seconds that are left of its call's time.
double rl_check_sleep_mayraise(lua_State *L, const char *function);

// MARK: text.c
bool rl_is_utf8(const char *text, size_t count);
/// Writes a code point below 0x110000; answers how many bytes (1 to 4).
size_t rl_put_utf8(char *out, uint32_t code);

// MARK: connection.c
typedef struct rl_connection {
    uint64_t id;
    /// `forget` has been called: nobody is behind this handle any more.
    bool is_forgotten;
} rl_connection;
void rl_open_connections_mayraise(lua_State *L);
/// Checks a size against what the call may send. Stops the call where it is too much; then leave.
bool rl_spend_output(lua_State *L, rl_engine *e, size_t count);
/// Stack: … → … connection
void rl_push_connection_mayraise(lua_State *L, uint64_t id);
/// The connection at `index`; NULL where something else is there.
rl_connection *rl_to_connection(lua_State *L, int index);
/// The connection at `index`, else an argument error.
rl_connection *rl_check_connection_mayraise(lua_State *L, int index);
/// Stack: … → … request
void rl_push_request_mayraise(lua_State *L, uint64_t connection);

// MARK: list.c
/// The engine's list, emptied, for the next host function. The engine owns it, so a raise leaks nothing.
rl_list *rl_fresh_list(rl_engine *e);
/// Pushes the string at `offset` of the list and answers the next one's offset, 0 behind the last (nothing is pushed)
/// or where memory was out.   Stack: … → … string
size_t rl_push_item_mayraise(lua_State *L, const rl_list *list, size_t offset);

// MARK: Opening parts of what scripts see
/// Stack: … libs → … libs
void rl_add_control_mayraise(lua_State *L);
void rl_add_relay_mayraise(lua_State *L);
/// Stack: … relay → … relay
void rl_add_registry_mayraise(lua_State *L);
void rl_add_dial_mayraise(lua_State *L);
void rl_add_timers_mayraise(lua_State *L);
void rl_add_http_mayraise(lua_State *L);

/// Reads a server id: an integer, or a text of 1 to 255 bytes. Answers false where something else is at `index`.
bool rl_to_server(lua_State *L, int index, rl_server *server);
/// Pushes a server id.   Stack: … → … id
void rl_push_server_mayraise(lua_State *L, rl_server server);
/// Reads a port. Answers false where something else than an integer from 0 to 65535 is at `index`.
bool rl_to_port(lua_State *L, int index, uint16_t *port);

/// Adds a registration to the unit that loads (stage.c).   Stack: … name summary f → …
void rl_add_entry_mayraise(lua_State *L, bool isHook, bool isPublic);

/// Raises where a script is loading and the function would have an effect outside.
void rl_check_serving_mayraise(lua_State *L, const char *function);
