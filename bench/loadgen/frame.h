// WebSocket frames (RFC 6455 §5.2): heads and masks.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum opcode { OPCODE_CONTINUATION = 0, OPCODE_TEXT = 1, OPCODE_BINARY = 2, OPCODE_CLOSE = 8, OPCODE_PING, OPCODE_PONG };

enum {
    FRAME_HEAD_BYTES = 14,  // At most.
    MESSAGE_BYTES = 64 << 20,  // A relay that says more is broken.
};

struct frame {
    enum opcode opcode;
    bool isFinal, isMasked;
    uint32_t mask;  // As it lies in memory.
    size_t headLength, length;
};

/// Reads the head at the front of `bytes`; false where more must come. Ends the run where it is none that a relay may
/// send to this end: the server's end (`isServer`) gets masked frames, the client's end gets others.
bool frame_read(struct frame *frame, bool isServer, const char *bytes, size_t length);

/// Writes the head of an unfragmented message, with `frame->mask` where it is masked; returns its length.
size_t frame_write(const struct frame *frame, char *head);

/// Masks or unmasks `length` bytes, the first of a payload.
void frame_mask(uint32_t mask, char *payload, size_t length);
