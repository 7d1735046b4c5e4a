-- The json library.

local function fails(text, f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok, "no error")
  assert(string.find(message, text, 1, true), message)
end

-- only this is to be seen of it
do
  local names = {}
  for name in pairs(json) do names[#names + 1] = name end
  table.sort(names)
  assert(table.concat(names, ",") == "decode,encode,null")
end

-- encode
assert(json.encode(nil) == "null" and json.encode(json.null) == "null" and json.encode(true) == "true")
assert(json.encode(1) == "1" and json.encode(-7) == "-7" and json.encode(1.5) == "1.5" and json.encode(2.0) == "2")
assert(json.encode("a\"b\\c/d\n\0\127") == [["a\"b\\c\/d\n\u0000\u007f"]])
assert(json.encode("\u{E9}") == "\"\u{E9}\"")
assert(json.encode({1, 2, {3}}) == "[1,2,[3]]" and json.encode({a = 1}) == '{"a":1}')
assert(json.encode({}) == "{}")
assert(json.encode({1, nil, 3}) == "[1,null,3]")
assert(json.encode({[1] = "a", [10] = "b"}):find("^%[") and json.encode({[1000] = "x"}) == '{"1000":"x"}')
assert(json.encode({[3.5] = 1}) == '{"3.5":1}')
assert(json.encode({[1 << 40] = 1}) == '{"1099511627776":1}')
assert(json.encode(99999999999999) == "99999999999999")
assert(json.encode(1000000000000000) == "1e+15" and json.decode("1e+15") == 1000000000000000)
fails("cannot encode integer 123456789012345", json.encode, 123456789012345)
fails("cannot encode integer", json.encode, math.mininteger)
fails("cannot encode integer", json.encode, {deep = {[123456789012345678] = 1}})
fails("NaN or Inf", json.encode, 0 / 0)
fails("NaN or Inf", json.encode, {1 / 0})
fails("type not supported", json.encode, print or pairs)
fails("type not supported", json.encode, {f = pairs})
fails("table key must be a number or string", json.encode, {[true] = 1})
fails("value expected", json.encode)
do
  local loop = {}
  loop.loop = loop
  fails("nested deeper than 128", json.encode, loop)
  local deep, text = {}, ""
  for _ = 1, 127 do deep = {deep} end
  text = json.encode(deep)
  assert(text == ("["):rep(127) .. "{}" .. ("]"):rep(127))
  fails("nested deeper than 128", json.encode, {deep})
  assert(#json.decode(("["):rep(128) .. ("]"):rep(128)) == 1)
  fails("too many nested", json.decode, ("["):rep(129) .. ("]"):rep(129))
  assert(json.encode({deep = setmetatable({}, {__index = error, __len = error, __pairs = error})}) == '{"deep":{}}')
  local big = json.encode({("x"):rep(70000)})
  assert(#big == 70004 and json.decode(big)[1] == ("x"):rep(70000))
end

-- decode
do
  local value = json.decode [[
    {"a": [1, 2.5, -3, 1e2, "x\u00e9\n", true, false, null], "b": {}, "": 0, "n": {"id": 7}} ]]
  assert(math.type(value.a[1]) == "integer" and value.a[1] == 1 and value.a[2] == 2.5 and value.a[3] == -3)
  assert(math.type(value.a[4]) == "integer" and value.a[4] == 100)
  assert(value.a[5] == "x\u{E9}\n" and value.a[6] == true and value.a[7] == false and value.a[8] == json.null)
  assert(next(value.b) == nil and value[""] == 0 and "" .. value.n.id == "7")
end
assert(math.type(json.decode("5")) == "integer" and json.decode('"x"') == "x" and json.decode("null") == json.null)
assert(json.decode("9007199254740992") == 1 << 53 and math.type(json.decode("1e300")) == "float")
assert(json.decode([["\ud83d\ude00"]]) == "\u{1F600}")
assert(json.decode('{"a":1,"a":2}').a == 2)
for _, text in ipairs {
  "", " ", "{", "[1,]", "[1 2]", "{a:1}", "{'a':1}", "tru", "nan", "[NaN]", "[Infinity]", "0x10", "[1]]",
  '"\\x"', '"\\ud800"', '"abc', "\0", "[1,2", '{"a"}', '{"a":}', "--1",
} do
  assert(not pcall(json.decode, text), text)
end
fails("string expected", json.decode, nil)
fails("string expected", json.decode, {})

-- there and back
do
  local text = json.encode({id = 12, list = {1, 2, 3}, name = "x", nested = {{a = json.null}}})
  local value = json.decode(text)
  assert(value.id == 12 and #value.list == 3 and value.name == "x" and value.nested[1].a == json.null)
end
