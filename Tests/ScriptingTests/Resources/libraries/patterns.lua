-- string.find, match, gmatch and gsub: the reference manual's rules (§6.4.1), item by item.

local function fails(text, f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok, "no error")
  assert(string.find(message, text, 1, true), message)
end

-- find, plain and not
assert(string.find("hello world", "wor") == 7)
assert(select(2, string.find("hello world", "wor")) == 9)
assert(string.find("a.b", ".", 1, true) == 2)
assert(string.find("a.b", "%.") == 2)
assert(string.find("abc", "") == 1 and select(2, string.find("abc", "")) == 0)
assert(string.find("abc", "", 4) == 4)
assert(string.find("abc", "", 5) == nil)
assert(string.find("abc", "b", -2) == 2)
assert(string.find("abc", "a", -2) == nil)
assert(string.find("abc", "a", -100) == 1)
assert(string.find("aaab", "aab") == 2)
assert(string.find("a\0b\0c", "\0c") == 4)
assert(string.find("a\0b", "%z") == 2)
assert(string.find("", "") == 1)
assert(string.find("alo", "", -10) == 1)
assert(string.find("xyz", "[", 1, true) == nil)

-- classes, sets, ranges, complements
assert(string.match("key = 12", "%a+") == "key")
assert(string.match("key = 12", "%d+") == "12")
assert(string.match("key = 12", "%D+") == "key = ")
assert(string.match("\9 \10x", "^%s+") == "\9 \10")
assert(string.match("a1_", "[%w_]+") == "a1_")
assert(string.match("abc]d", "[]]") == "]")
assert(string.match("abc]d", "[^]]+") == "abc")
assert(string.match("a-b", "[a%-]+") == "a-")
assert(string.match("a-b", "[a-]+") == "a-")
assert(string.match("x^y", "[x^]+") == "x^")
assert(string.match("hex 1fZ", "%x+", 5) == "1f")
assert(string.match("\127\1", "%c+") == "\127\1")
assert(string.match("!?a", "%p+") == "!?")
assert(string.match("aBc", "%u") == "B" and string.match("aBc", "%U+") == "a")
assert(string.match("\200\201a", "%a") == "a")
assert(string.match("a%b", "%%b") == "%b")
assert(string.match("[c-a]", "[c-a]") == nil)
do
  local all = {}
  for byte = 0, 255 do all[#all + 1] = string.char(byte) end
  all = table.concat(all)
  assert(#all == 256)
  assert(select(2, string.gsub(all, "[a-z]", "")) == 26)
  assert(select(2, string.gsub(all, "%g", "")) == 94)
  assert(select(2, string.gsub(all, "%c", "")) == 33)
  assert(select(2, string.gsub(all, "[\0-\255]", "")) == 256)
  assert(select(2, string.gsub(all, "[^%W]", "")) == 62)
end

-- repetition, longest and shortest
assert(string.match("aaab", "a*") == "aaa")
assert(string.match("baaa", "a*") == "")
assert(string.match("aaab", "a-b") == "aaab")
assert(string.match("aaab", "^a-") == "")
assert(string.match("aaab", "a+b") == "aaab")
assert(string.match("b", "a?b") == "b" and string.match("ab", "a?b") == "ab")
assert(string.match("<<x>>", "<(.-)>") == "<x")
assert(string.match("x = [[a]] ]]", "%[%[(.*)%]%]") == "a]] ")
assert(string.match("  trim me  ", "^%s*(.-)%s*$") == "trim me")
assert(string.match("*a", "*a") == "*a")

-- anchors
assert(string.match("hello", "^h") == "h" and string.match("hello", "^e") == nil)
assert(string.match("hello", "o$") == "o" and string.match("hello", "l$") == nil)
assert(string.match("a$b", "a$b") == "a$b")
assert(string.match("a^b", "a^b") == "a^b")
assert(string.find("", "^$") == 1)
assert(string.match("hello", "^l", 3) == "l")

-- captures, positions, back references
do
  local key, value = string.match("name = Anna", "(%a+)%s*=%s*(%a+)")
  assert(key == "name" and value == "Anna")
  local a, b = string.match("hello", "()ll()")
  assert(a == 3 and b == 5 and math.type(a) == "integer")
  local outer, inner = string.match("abcd", "(a(b)c)d")
  assert(outer == "abc" and inner == "b")
  assert(string.match([["it's"]], [[(["'])(.-)%1]]) == '"')
  assert(select(2, string.match([["it's"]], [[(["'])(.-)%1]])) == "it's")
  assert(string.match("abab", "(ab)%1") == "ab")
  assert(string.match("abac", "(ab)%1") == nil)
  assert(select("#", string.find("abc", "(a)(b)(c)")) == 5)
  assert(string.match("x", "()%1") == nil)
end

-- balance and frontier
assert(string.match("f(a(b)c)d)", "%b()") == "(a(b)c)")
assert(string.match("((a)", "%b()") == "(a)")
assert(string.match("|a|b|", "%b||") == "|a|")
assert(string.gsub("THE (quick) fox", "%f[%a]%a+", "w") == "w (w) w")
assert(string.find("THE (quick) fox", "%f[%a]%a+%f[%A]", 2) == 6)
assert(string.gsub("aaa aa a", "%f[%w]%a", "x") == "xaa xa x")
assert(string.gsub("[[]] [][] [[[[", "%f[[].", "x") == "x[]] x]x] x[[[")
assert(string.find("abc", "%f[%z]") == 4)

-- gmatch
do
  local words = {}
  for word in string.gmatch("one two  three", "%a+") do words[#words + 1] = word end
  assert(table.concat(words, ",") == "one,two,three")
  local pairsSeen = {}
  for k, v in string.gmatch("a=1, b=2", "(%w+)=(%w+)") do pairsSeen[k] = v end
  assert(pairsSeen.a == "1" and pairsSeen.b == "2")
  local positions = {}
  for p in string.gmatch("abc", "()") do positions[#positions + 1] = p end
  assert(table.concat(positions, ",") == "1,2,3,4")
  local found = {}
  for m in string.gmatch("xabxaabx", "a*") do found[#found + 1] = m end
  assert(table.concat(found, ",") == ",a,,aa,,", table.concat(found, ","))
  local late = {}
  for m in string.gmatch("abcd", ".", 3) do late[#late + 1] = m end
  assert(table.concat(late) == "cd")
  late = {}
  for m in string.gmatch("abcd", ".", -1) do late[#late + 1] = m end
  assert(table.concat(late) == "d")
  for _ in string.gmatch("abc", ".", 10) do error("no match can start there") end
  local carets = 0
  for _ in string.gmatch("^a^a", "^a") do carets = carets + 1 end
  assert(carets == 2)
  local next = string.gmatch("a", "a")
  assert(next() == "a" and next() == nil and next() == nil)
end

-- gsub
assert(string.gsub("hello world", "o", "0") == "hell0 w0rld")
assert(select(2, string.gsub("hello world", "o", "0")) == 2)
assert(string.gsub("hello world", "o", "0", 1) == "hell0 world")
assert(string.gsub("hello", "", "-") == "-h-e-l-l-o-")
assert(string.gsub("hello", "l*", "x") == "xhxexox")
assert(string.gsub("abc", "%w", "%0%0") == "aabbcc")
assert(string.gsub("abc", "%w", "%1%1") == "aabbcc")
assert(string.gsub("hello world", "(%w+) (%w+)", "%2 %1") == "world hello")
assert(string.gsub("abc", "b", "%%") == "a%c")
assert(string.gsub("abc", "()", "%1") == "1a2b3c4")
assert(string.gsub("$name is $age", "%$(%w+)", {name = "Anna", age = 7}) == "Anna is 7")
assert(string.gsub("$x $y", "%$(%w+)", {x = false}) == "$x $y")
assert(string.gsub("abc", "%w", string.upper) == "ABC")
assert(string.gsub("abc", "%w", function(c) if c == "b" then return 2 end end) == "a2c")
assert(string.gsub("aaa", "^a", "b") == "baa")
assert(string.gsub("abc", "$", "x") == "abcx")
assert(string.gsub("abc", "b", 5) == "a5c")
assert(string.gsub("a\0b", "\0", "\0\0") == "a\0\0b")
assert(string.gsub("abc", "x", "y") == "abc")
assert(string.gsub("abc", ".", "x", 0) == "abc" and string.gsub("abc", ".", "x", -1) == "abc")
assert(string.gsub("x y", "%w", setmetatable({}, {__index = function(_, k) return k .. k end})) == "xx yy")
assert(("x"):rep(3):gsub("x", "yy") == "yyyyyy")

-- many quantifiers need no depth
assert(string.match(("a"):rep(300), ("a?"):rep(300)) == ("a"):rep(300))
assert(string.match(("a"):rep(500) .. "b", ("a*"):rep(3) .. "b") ~= nil)
assert(string.find(("a"):rep(2000) .. "b", ".-b") == 1)

-- errors; a malformed pattern is one even where matching would not have come that far
fails("malformed pattern (ends with '%')", string.find, "a", "%")
fails("malformed pattern (ends with '%')", string.find, "b", "a%")
fails("malformed pattern (missing ']')", string.find, "a", "[a")
fails("malformed pattern (missing ']')", string.find, "a", "[]")
fails("malformed pattern (missing ']')", string.find, "a", "[^]")
fails("malformed pattern (missing ']')", string.find, "a", "[a%")
fails("malformed pattern (missing ']')", string.find, "a", "[a%]")
fails("missing arguments to '%b'", string.find, "a", "%b")
fails("missing arguments to '%b'", string.find, "a", "%bx")
fails("missing '[' after '%f'", string.find, "a", "%fa")
fails("missing '[' after '%f'", string.find, "a", "%f")
fails("unfinished capture", string.find, "a", "(a")
fails("invalid pattern capture", string.find, "a", "a)")
fails("invalid capture index %1", string.find, "a", "%1")
fails("invalid capture index %1", string.find, "a", "(a%1)")
fails("invalid capture index %0", string.find, "a", "(a)%0")
fails("too many captures", string.find, "a", ("()"):rep(33))
fails("invalid capture index %2 in replacement string", string.gsub, "a", "a", "%2")
fails("invalid use of '%' in replacement string", string.gsub, "a", "a", "%x")
fails("invalid use of '%' in replacement string", string.gsub, "a", "a", "%")
fails("invalid replacement value (a table)", string.gsub, "a", "a", function() return {} end)
fails("string/function/table", string.gsub, "a", "a", true)
fails("pattern too long", string.find, "a", ("a"):rep(70000) .. "%a")
fails("own error", string.gsub, "a", "a", function() error("own error") end)
assert(select("#", string.match("a", ("()"):rep(32))) == 32)
