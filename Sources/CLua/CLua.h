// Lua 5.4 and lua-cjson, as Debian packages them.
#pragma once
#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>
#include <lua-cjson.h>
