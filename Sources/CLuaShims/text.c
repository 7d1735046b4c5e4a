// UTF-8 (RFC 3629).
#include <string.h>

#include "engine.h"

/// Checks eight bytes at a time as long as they are ASCII.
bool rl_is_utf8(const char *text, size_t count) {
    const unsigned char *s = (const unsigned char *)text, *end = s + count;
    while (s < end) {
        uint64_t word;
        if (end - s >= 8 && (memcpy(&word, s, 8), (word & 0x8080808080808080u) == 0)) {
            s += 8;
            continue;
        }
        unsigned first = *s++;
        if (first < 0x80) continue;
        if (first < 0xC2 || first > 0xF4) return false;
        int following = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        if (end - s < following) return false;
        // The second byte's range excludes overlong forms, surrogates and what lies behind U+10FFFF.
        unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
        unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
        if (s[0] < low || s[0] > high) return false;
        for (int i = 1; i < following; i++) {
            if ((s[i] & 0xC0) != 0x80) return false;
        }
        s += following;
    }
    return true;
}

size_t rl_put_utf8(char *out, uint32_t code) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}
