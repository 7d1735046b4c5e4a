-- The base functions, math, os, json, and what a script can and cannot reach.

local function fails(text, f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok, "no error")
  assert(string.find(tostring(message), text, 1, true), message)
end

-- what there is, and what there is not
for _, name in ipairs {
  "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawlen", "rawset",
  "select", "setmetatable", "tonumber", "tostring", "type", "xpcall", "load", "collectgarbage",
} do
  assert(type(_G[name]) == "function", name)
end
for _, name in ipairs {"io", "debug", "package", "dofile", "loadfile", "warn", "loadstring", "setfenv"} do
  assert(_G[name] == nil, name)
end
assert(_VERSION == "Lua 5.4")
for _, name in ipairs {"execute", "exit", "getenv", "remove", "rename", "tmpname", "setlocale", "difftime"} do
  assert(os[name] == nil, name)
end

-- libraries are read-only, whatever way one takes
for _, name in ipairs {"string", "table", "math", "utf8", "os", "json"} do
  local library = _G[name]
  assert(type(library) == "table" and getmetatable(library) == false, name)
  fails("'" .. name .. "' is read-only", function() library.own = 1 end)
  fails("read-only", rawset, library, "own", 1)
  fails("protected metatable", setmetatable, library, {})
  fails("protected metatable", setmetatable, library, nil)
  assert(next(library) == nil and rawget(library, "own") == nil and library.own == nil)
  fails("is reserved", function() _G[name] = {} end)
  fails("is reserved", rawset, _G, name, {})
end
fails("'string' is read-only", function() string.upper = print end)
fails("'string' is read-only", table.insert, string, "x")
fails("'string' is read-only", table.move, {1}, 1, 1, 1, string)
fails("is reserved", function() pairs = nil end)
fails("is reserved", function() string = {} end)
fails("is reserved", function() _G = {} end)
fails("is reserved", load "function tostring() end")
do
  local names = 0
  for key, value in pairs(string) do
    assert(string[key] == value)
    names = names + 1
  end
  assert(names == 16)
  local step, state = pairs(string)
  assert(rawequal(state, string) and type(step) == "function")
end

-- globals
own = 1
assert(own == 1 and _G.own == 1 and rawget(_G, "own") == 1 and _G._G == _G)
_G.own = 2
assert(own == 2)
rawset(_G, "own", 3)
assert(own == 3)
own = nil
assert(rawget(_G, "own") == nil and own == nil)
assert(rawget(_G, "string") == nil and getmetatable(_G) == false)
fails("protected metatable", setmetatable, _G, {})
for key in pairs(_G) do assert(key ~= "string" and key ~= "_G") end

-- metatables
assert(getmetatable(setmetatable({}, {__metatable = "mine"})) == "mine")
fails("protected metatable", setmetatable, setmetatable({}, {__metatable = 1}), {})
fails("'__gc' is not allowed", setmetatable, {}, {__gc = function() end})
fails("'__gc' is not allowed", setmetatable, {}, {__gc = false})
assert(getmetatable(setmetatable({}, setmetatable({}, {__index = function() return 1 end}))).__gc == 1)
fails("nil or table expected", setmetatable, {})
fails("table expected", setmetatable, 1, {})
fails("table expected", rawset, "x", 1, 2)
assert(rawlen({1, 2}) == 2 and rawequal("a", "a") and not rawequal({}, {}))
assert(rawset({}, "k", "v").k == "v")
fails("index is nil", rawset, {}, nil, 1)

-- tonumber, tostring, select, errors
assert(tonumber("0x10") == 16 and tonumber(" 12 ") == 12 and tonumber("1e1") == 10.0 and tonumber("x") == nil)
assert(tonumber("zz", 36) == 1295 and tonumber("8", 8) == nil and tonumber(5) == 5 and tonumber({}) == nil)
fails("base out of range", tonumber, "1", 99)
fails("value expected", tonumber)
assert(tostring(nil) == "nil" and tostring(1.0) == "1.0")
assert(select("#", nil, nil) == 2 and select(-1, 1, 2) == 2)
do
  local marker = {}
  local ok, value = pcall(error, marker)
  assert(not ok and value == marker)
  assert(select("#", pcall(error)) == 2)
  local handled, text = xpcall(function() error("deep", 0) end, function(m) return m .. "!" end)
  assert(not handled and text == "deep!")
  fails("line 7", error, "line 7")
  assert(select(2, pcall(function() error("where") end)):find("^[^:]+:%d+: where$"))
end

-- load
assert(load("return 1 + 1")() == 2)
assert(load("return _ENV")() == _G)
assert(load("return x", "name", "t", {x = 7})() == 7)
assert(load("x = 1; return string", "name", nil, {})() == nil)
assert(select(2, load("return nil, ...", "=n")(5)) == 5)
do
  local pieces, i = {"return ", "4", "2", nil}, 0
  assert(load(function() i = i + 1 return pieces[i] end)() == 42)
  local chunk, message = load("x =", "=unit")
  assert(chunk == nil and message:find("^unit:1:"))
  chunk, message = load("\27Lua")
  assert(chunk == nil and message:find("binary"))
  chunk, message = load("return 1", "n", "b")
  assert(chunk == nil and message:find("mode"))
  chunk, message = load("return 1", "n", "bt")
  assert(chunk() == 1)
  chunk, message = load(("x"):rep(300 * 1024))
  assert(chunk == nil and message:find("chunk too large"))
  chunk, message = load(function() return (" "):rep(300 * 1024) end)
  assert(chunk == nil and message:find("chunk too large"))
  chunk, message = load(function() return {} end)
  assert(chunk == nil and message:find("must return a string"))
  chunk, message = load(function() error("reader") end)
  assert(chunk == nil and message:find("reader"))
  assert(load(function() return nil end)() == nil)
  assert(load("return " .. ("("):rep(300) .. "1" .. (")"):rep(300)) == nil)
end
fails("function expected", load, {})

-- collectgarbage
assert(math.type(collectgarbage("count")) == "float" and collectgarbage("count") > 0)
for _, option in ipairs {"collect", "stop", "restart", "step", "incremental", "generational", "setpause", "nonsense"} do
  fails("is not available", collectgarbage, option)
end
fails("is not available", collectgarbage)

-- math and os
assert(math.maxinteger + 1 == math.mininteger and math.type(1) == "integer" and math.tointeger(3.0) == 3)
assert(math.floor(-1.5) == -2 and math.max(1, 3, 2) == 3 and math.pi > 3.14)
for _ = 1, 10 do
  local n = math.random(6)
  assert(n >= 1 and n <= 6)
end
fails("interval is empty", math.random, 2, 1)
assert(math.type(os.time()) == "integer" and os.clock() >= 0)
assert(os.date("!%Y-%m-%d", 0) == "1970-01-01" and os.date("!*t", 86400).day == 2)
assert(os.time {year = 2000, month = 1, day = 1, hour = 12} > 900000000)
fails("invalid conversion specifier", os.date, "%Ez", 0)
fails("invalid conversion specifier", os.date, "%", 0)
fails("format too long", os.date, ("%c"):rep(10000), 0)
fails("missing in date table", os.time, {})
fails("cannot be represented", os.date, "%c", math.maxinteger)
