// os.time, os.clock and os.date: stock functions, the rest of the library stays outside.
#include <lualib.h>

#include "libraries.h"

/// A conversion of two bytes becomes up to 250: what is enough for any date stays small.
#define MAXIMUM_DATE_FORMAT_BYTES ((size_t)1024)

/// Goes on as the stock date in upvalue 1.   Stack: [format [time]] → … (text | table)
static int os_date(lua_State *L) {
    size_t length;
    luaL_optlstring(L, 1, "%c", &length);
    luaL_argcheck(L, length <= MAXIMUM_DATE_FORMAT_BYTES, 1, "format too long (limit 1024 bytes)");
    rl_tick(L, length * 100 + 200);
    return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

void rl_open_os_mayraise(lua_State *L) {
    luaL_checkstack(L, 4, NULL);
    lua_createtable(L, 0, 3);
    lua_pushcfunction(L, luaopen_os);
    lua_call(L, 0, 1);                        // Stack: … os stock
    lua_getfield(L, -1, "time");
    lua_setfield(L, -3, "time");
    lua_getfield(L, -1, "clock");
    lua_setfield(L, -3, "clock");
    lua_getfield(L, -1, "date");
    lua_pushcclosure(L, os_date, 1);
    lua_setfield(L, -3, "date");
    lua_pop(L, 1);                            // Stack: … os
}
