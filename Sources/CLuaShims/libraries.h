// The sandboxed Lua 5.4 standard library: what scripts see instead of lualib.
//
// Everything here runs inside Lua: functions may raise (longjmp), so they are called under lua_pcall only. None keeps
// memory outside the Lua state across a call that can raise, so a raise leaks nothing, whichever allocation failed.
//
// What makes it a sandbox (against the stock libraries):
//  - C work is charged to the running call with rl_tick, because no Lua hook runs inside a C function;
//  - results, ranges and source texts have limits (below), each with an error that names it;
//  - pattern matching keeps its choices in an array, one per quantifier: it cannot overflow the C stack;
//  - library tables, the globals' metatables and the string metatable cannot be reached or changed by a script;
//  - no finalizers: setmetatable refuses `__gc`.
#pragma once

#include <lauxlib.h>
#include <lua.h>
#include <stddef.h>

/// The most bytes that one library call may return as a string, and the most that json.decode accepts.
#define RL_MAXIMUM_RESULT_BYTES ((size_t)16 << 20)
/// The most bytes of source text that `load` accepts in one chunk (DESIGN §11, `instructionBytes`).
#define RL_MAXIMUM_CHUNK_BYTES ((size_t)256 << 10)
/// The most table slots that one call of the table library may touch. A state of 64 MiB holds a quarter as many.
#define RL_MAXIMUM_RANGE ((lua_Integer)1 << 24)
/// The deepest nesting of arrays and objects that json.encode writes and json.decode reads.
#define RL_MAXIMUM_JSON_DEPTH 128
/// Callers add up this much work before they call rl_tick (about 1 to 5 µs).
#define RL_TICK_BATCH ((size_t)1000)

/// Implemented by the engine: counts `cost` units of C work against the running call's burst and raises when the burst
/// is over. A unit is about one character compared or one table slot moved: 1 to 5 ns.
///
/// Callers pass the cost before the work where it is known beforehand, so one call may bring far more than
/// RL_TICK_BATCH: count the units as they are, a look at the clock alone would not see them. Where it is not known
/// (patterns, sorting, compiling), calls come every RL_TICK_BATCH units or so: look at the clock there.
void rl_tick(lua_State *L, size_t cost);

// MARK: Opening

/// Builds everything that scripts may see from here: the base functions, and read-only `string`, `table`, `math`,
/// `utf8`, `os`, `json`. Installs the string metatable. Call it once on a fresh state, under lua_pcall; the engine adds
/// its own names to the table (wrap tables with rl_push_readonly first) before rl_make_globals.
///
///     Stack: … → … libs
///
/// libs must never come into a script's hands; G reads through to it.
void rl_open_libraries(lua_State *L);

/// Makes the globals table G and makes it the state's own (LUA_RIDX_GLOBALS): chunks compiled from now on, by `load`
/// or by the engine, get it as `_ENV`. Reading falls through to libs; assigning a name of libs raises
/// "'NAME' is reserved"; `_G` reads as G. Call it once.
///
///     Stack: … libs → … libs G
void rl_make_globals(lua_State *L);

/// Makes an environment for one load: reads fall through to G (and so to libs), writes stay in the new table, with
/// the same reserved names; `_G` reads as the new table. Its raw contents are exactly what the script has assigned, and
/// pairs and next show no more than that.
///
/// `load` gives chunks the environment that LUA_RIDX_GLOBALS names, so while a script is staged put the staging table
/// there (lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS), which cannot raise: the slot exists).
///
/// All functions of a chunk share the chunk's `_ENV` upvalue: lua_setupvalue(L, chunk, 1) with G moves them at once.
///
///     Stack: … G libs → … G libs staging
void rl_make_staging(lua_State *L);

/// Replaces the table at the top by an empty one that reads from it and cannot be changed: assigning raises
/// "'NAME' is read-only", getmetatable answers false, pairs goes through the contents without showing the table.
/// rawset and the table library refuse it, too. The inner tables of a table are not wrapped.
///
///     Stack: … table → … proxy
void rl_push_readonly(lua_State *L, const char *name);

// MARK: Compiling

/// lua_load for text in memory, in slices, so that rl_tick can stop the compiler: its worst case is quadratic (256 KiB
/// of `a and a and …` took 2.2 s), and no hook runs in it. Each slice is charged 8 units a byte, and what CPU time the
/// compiler took beyond that at 2 ns a unit. Binary chunks are refused. Returns lua_load's status; a tick that raises
/// inside comes back as LUA_ERRRUN with the tick's error value. Does not check RL_MAXIMUM_CHUNK_BYTES.
///
///     Stack: … → … (function | message)
int rl_load_text(lua_State *L, const char *text, size_t length, const char *chunkName);

// MARK: JSON

/// Pushes the value that a JSON text stands for. Raises where the text is no JSON, too long or too deep, or where the
/// state has no room for the value. Integral numbers up to 2^53 become Lua integers; null becomes json.null.
/// Always returns 1. May raise.
///
///     Stack: … → … value
int rl_json_decode(lua_State *L, const char *text, size_t length);

/// Replaces the value at the top by its JSON text. Raises where JSON cannot carry it. Always returns 1. May raise.
///
///     Stack: … value → … text
int rl_json_encode(lua_State *L);

// MARK: Between the files of the library (not for the engine)

/// Each pushes one plain library table, to be wrapped by rl_open_libraries.   Stack: … → … library
void rl_open_string_mayraise(lua_State *L);
void rl_open_table_mayraise(lua_State *L);
void rl_open_utf8_mayraise(lua_State *L);
void rl_open_os_mayraise(lua_State *L);
void rl_open_json_mayraise(lua_State *L);
/// Adds the base functions to the table at the top.   Stack: … libs → … libs
void rl_add_base_mayraise(lua_State *L);
/// find, match, gmatch and gsub, into the table at the top.   Stack: … string → … string
void rl_add_search_mayraise(lua_State *L);
/// format, into the table at the top.   Stack: … string → … string
void rl_add_format_mayraise(lua_State *L);

/// Raises where the table at `index` must not be written raw under the key at `key`: a read-only proxy, or globals and
/// a reserved name. Leaves the stack as it was.
void rl_check_rawset_mayraise(lua_State *L, int index, int key);

/// A position as the string functions take it: negative counts from the end. Answers 1 or more; may be past the end.
size_t rl_start_position(lua_Integer position, size_t length);
/// The end of a range as the string functions take it: 0 to `length`.
size_t rl_end_position(lua_Integer position, size_t length);
