-- The table library.

local function fails(text, f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok, "no error")
  assert(string.find(message, text, 1, true), message)
end
local function joined(t) return table.concat(t, ",") end

-- insert and remove
do
  local t = {1, 2, 3}
  table.insert(t, 4)
  table.insert(t, 1, 0)
  table.insert(t, 3, "x")
  assert(joined(t) == "0,1,x,2,3,4")
  assert(table.remove(t, 3) == "x" and table.remove(t, 1) == 0 and table.remove(t) == 4)
  assert(joined(t) == "1,2,3")
  assert(table.remove({}) == nil and table.remove({}, 0) == nil and table.remove({1}, 2) == nil)
  table.insert(t, 4, "end")
  assert(t[4] == "end")
  local zero = {[0] = "z"}
  assert(table.remove(zero, 0) == "z" and zero[0] == nil)
  fails("position out of bounds", table.insert, {1, 2}, 4, "x")
  fails("position out of bounds", table.insert, {1, 2}, 0, "x")
  fails("position out of bounds", table.remove, {1, 2}, 5)
  fails("position out of bounds", table.remove, {1, 2}, -1)
  fails("wrong number of arguments", table.insert, {})
  fails("wrong number of arguments", table.insert, {}, 1, 2, 3)
  fails("table expected", table.insert, 1, 2)
end

-- move
assert(joined(table.move({1, 2, 3}, 1, 3, 2)) == "1,1,2,3")
assert(joined(table.move({1, 2, 3}, 2, 3, 1)) == "2,3,3")
assert(joined(table.move({1, 2, 3}, 1, 3, 3, {7, 8})) == "7,8,1,2,3")
assert(joined(table.move({1, 2, 3}, 1, 0, 9)) == "1,2,3")
assert(joined(table.move({1, 2, 3}, 1, 3, 1)) == "1,2,3")
fails("range too large", table.move, {}, 1, math.maxinteger, 2)
fails("range too large", table.move, {}, math.mininteger, math.maxinteger, 2)
fails("destination wrap around", table.move, {}, 1, 10, math.maxinteger)
assert(table.move({[math.maxinteger] = 1}, math.maxinteger, math.maxinteger, 1)[1] == 1)

-- concat
assert(table.concat({}) == "" and table.concat({1, 2.5, "x"}, "-") == "1-2.5-x")
assert(table.concat({1, 2, 3}, ",", 2) == "2,3" and table.concat({1, 2, 3}, ",", 2, 2) == "2")
assert(table.concat({1}, ",", 2, 1) == "")
assert(table.concat({[math.maxinteger] = "end"}, ",", math.maxinteger, math.maxinteger) == "end")
fails("invalid value (at index 2)", table.concat, {1, {}, 3})
fails("range too large", table.concat, {}, "", 1, math.maxinteger)

-- pack and unpack
do
  local t = table.pack(1, nil, 3, nil)
  assert(t.n == 4 and t[1] == 1 and t[2] == nil and t[3] == 3)
  assert(table.pack().n == 0)
  local a, b, c = table.unpack({1, 2, 3})
  assert(a == 1 and b == 2 and c == 3)
  assert(select("#", table.unpack({}, 1, 10)) == 10 and select("#", table.unpack({1, 2}, 3)) == 0)
  assert(select("#", table.unpack({1, 2, 3}, -1, 1)) == 3)
  assert(table.unpack({1, 2}, math.maxinteger, math.maxinteger) == nil)
  fails("too many results", table.unpack, {}, 1, 1e8)
  fails("too many results", table.unpack, {}, math.mininteger, math.maxinteger)
  local doubles = setmetatable({}, {__index = function(_, i) return i * 2 end, __len = function() return 3 end})
  assert(table.unpack(doubles) == 2 and select(3, table.unpack(doubles)) == 6)
end

-- sort
do
  local function check(t, before)
    local n = #t
    table.sort(t, before)
    assert(#t == n)
    for i = 2, n do assert(not (before or function(a, b) return a < b end)(t[i], t[i - 1])) end
  end
  for n = 0, 40 do
    local up, down, mixed, same = {}, {}, {}, {}
    for i = 1, n do up[i], down[i], mixed[i], same[i] = i, -i, (i * 7919) % 31, 5 end
    check(up) check(down) check(mixed) check(same)
    check(mixed, function(a, b) return a > b end)
  end
  local words = {"pear", "apple", "fig", "Apple", "", "apples"}
  check(words)
  assert(joined(words) == ",Apple,apple,apples,fig,pear")

  -- Equal elements keep their order.
  local people = {}
  for i = 1, 50 do people[i] = {age = i % 5, number = i} end
  table.sort(people, function(a, b) return a.age < b.age end)
  for i = 2, 50 do
    assert(people[i - 1].age < people[i].age or people[i - 1].number < people[i].number)
  end

  -- Nonsense comparators end, and lose nothing.
  for _, nonsense in ipairs {
    function() return true end, function() return false end, function(a, b) return (a * 31 + b) % 3 == 0 end,
    function(a, b) return a <= b end,
  } do
    local t, sum = {}, 0
    for i = 1, 100 do t[i] = (i * 37) % 101 end
    table.sort(t, nonsense)
    for _, value in ipairs(t) do sum = sum + value end
    assert(#t == 100 and sum == 100 * 101 // 2)
  end

  -- An error leaves the table as it was.
  local t = {3, 1, 2}
  fails("stop", table.sort, t, function() error("stop") end)
  assert(joined(t) == "3,1,2")
  fails("attempt to compare", table.sort, {1, "x", 2})
  fails("attempt to compare", table.sort, {{}, {}})
  fails("function expected", table.sort, {2, 1}, 1)

  -- A comparator that empties the table meanwhile.
  local victim = {5, 4, 3, 2, 1}
  table.sort(victim, function(a, b) for i = 1, 5 do victim[i] = nil end return a < b end)
  assert(joined(victim) == "1,2,3,4,5")

  -- Elements with __lt.
  local ordered = {}
  local class = {__lt = function(a, b) return a.v < b.v end}
  for i = 1, 10 do ordered[i] = setmetatable({v = (i * 7) % 11}, class) end
  table.sort(ordered)
  for i = 2, 10 do assert(ordered[i - 1].v < ordered[i].v) end
end

-- metamethods are heeded
do
  local store = {3, 1, 2}
  local face = setmetatable({}, {
    __index = store, __newindex = function(_, k, v) store[k] = v end, __len = function() return #store end,
  })
  table.sort(face)
  assert(joined(store) == "1,2,3" and rawlen(face) == 0)
  table.insert(face, 4)
  table.insert(face, 1, 0)
  assert(joined(store) == "0,1,2,3,4" and table.concat(face, ",") == "0,1,2,3,4")
  assert(table.remove(face, 1) == 0 and joined(store) == "1,2,3,4")
  table.move(face, 1, 2, 5)
  assert(joined(store) == "1,2,3,4,1,2")
end

-- lengths that lie
do
  local function claims(n) return setmetatable({}, {__len = function() return n end}) end
  fails("range too large", table.concat, claims(1 << 40))
  fails("range too large", table.insert, claims(1 << 40), 1, "x")
  fails("range too large", table.remove, claims(1 << 40), 1)
  fails("array too big", table.sort, claims(1 << 40))
  fails("too many results", table.unpack, claims(1 << 40))
  fails("not an integer", table.insert, claims("x"), 1)
  assert(table.insert(claims(math.maxinteger), "x") == nil)
  assert(table.remove(claims(-5)) == nil)
end
