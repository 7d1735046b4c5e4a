// What the compiler and the matcher of patterns share: the kinds of items, and what bytes are.
#pragma once

#include "pattern.h"

/// The kinds of items.
enum {
    // One byte, may be quantified.
    opAny, opByte, opClass, opSet,
    // No byte of their own.
    opOpen, opClose, opPosition, opFrontier, opAtEnd, opDone,
    // Several bytes, one way.
    opBalance, opCapture, opNever,
};

/// What each byte is, in the C locale: bits that the compiler puts together to classes.
extern const uint8_t rl_traits_of_byte[256];

static inline bool rl_set_has(const rl_byte_set *set, unsigned char byte) {
    return (set->bits[byte >> 6] >> (byte & 63)) & 1;
}
