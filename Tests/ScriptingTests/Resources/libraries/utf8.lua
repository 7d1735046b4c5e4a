-- The utf8 library.

local function fails(text, f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok, "no error")
  assert(string.find(message, text, 1, true), message)
end

local text = "a\u{E9}\u{20AC}\u{1F600}z"   -- 1, 2, 3, 4 and 1 bytes
assert(#text == 11)

assert(utf8.char() == "" and utf8.char(97, 0xE9, 0x20AC, 0x1F600, 122) == text)
assert(utf8.char(0x7FFFFFFF) == "\xFD\xBF\xBF\xBF\xBF\xBF")
fails("value out of range", utf8.char, -1)

assert(utf8.len(text) == 5 and utf8.len("") == 0 and utf8.len(text, 2) == 4 and utf8.len(text, -1) == 1)
assert(utf8.len(text, 1, 3) == 2)
assert(utf8.len("a\xFFb") == nil and select(2, utf8.len("a\xFFb")) == 2)
assert(select(2, utf8.len(text, 3)) == 3)
fails("initial position out of bounds", utf8.len, text, 13)
fails("final position out of bounds", utf8.len, text, 1, 12)

assert(utf8.codepoint(text) == 97 and utf8.codepoint(text, 2) == 0xE9)
assert(select("#", utf8.codepoint(text, 1, -1)) == 5 and select(4, utf8.codepoint(text, 1, -1)) == 0x1F600)
assert(select("#", utf8.codepoint("abc", 3, 2)) == 0)
fails("out of bounds", utf8.codepoint, text, 12)
fails("out of bounds", utf8.codepoint, text, 1, 12)
fails("invalid UTF-8 code", utf8.codepoint, text, 3)

assert(utf8.offset(text, 1) == 1 and utf8.offset(text, 2) == 2 and utf8.offset(text, 3) == 4)
assert(utf8.offset(text, 5) == 11 and utf8.offset(text, 6) == 12 and utf8.offset(text, 7) == nil)
assert(utf8.offset(text, -1) == 11 and utf8.offset(text, -2) == 7 and utf8.offset(text, -6) == nil)
assert(utf8.offset(text, 0, 8) == 7 and utf8.offset(text, 0, 1) == 1)
assert(utf8.offset(text, 2, 4) == 7 and utf8.offset(text, -1, 4) == 2)
fails("initial position is a continuation byte", utf8.offset, text, 1, 3)
fails("position out of bounds", utf8.offset, text, 1, 13)

do
  local seen = {}
  for position, code in utf8.codes(text) do seen[#seen + 1] = position .. ":" .. code end
  assert(table.concat(seen, " ") == "1:97 2:233 4:8364 7:128512 11:122")
  fails("invalid UTF-8 code", function() for _ in utf8.codes("ab\xFF") do end end)
  fails("invalid UTF-8 code", function() for _ in utf8.codes("\x80") do end end)
  fails("invalid UTF-8 code", function() for _ in utf8.codes("a\x80") do end end)
  local parts = {}
  for part in string.gmatch(text, utf8.charpattern) do parts[#parts + 1] = #part end
  assert(table.concat(parts, ",") == "1,2,3,4,1")
end

-- what is not UTF-8
for _, bytes in ipairs {
  "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\xED\xA0\x80",
  "\xED\xBF\xBF", "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "\xC3", "\xE2\x82", "\xF0\x9F\x98", "\xFF", "\xFE",
  "\xC3(", "\x80",
} do
  assert(utf8.len(bytes) == nil, bytes)
end
assert(utf8.len("\u{D7FF}\u{E000}\u{10FFFF}") == 3)
assert(utf8.len("\xED\xA0\x80", 1, -1, true) == 1 and utf8.len("\xFD\xBF\xBF\xBF\xBF\xBF", 1, -1, true) == 1)
assert(utf8.codepoint("\xF4\x90\x80\x80", 1, 1, true) == 0x110000)
assert(utf8.len("\xE0\x80\x80", 1, -1, true) == nil)
