#include "frame.h"

#include <string.h>

#include "fail.h"

bool frame_read(struct frame *frame, bool isServer, const char *bytes, size_t length) {
    if (length < 2) return false;
    const unsigned char *head = (const unsigned char *)bytes;
    if (head[0] & 0x70) fail(EXIT_LOST, "a frame with a reserved bit came");
    *frame = (struct frame){
        .opcode = head[0] & 0x0F, .isFinal = head[0] & 0x80, .isMasked = head[1] & 0x80, .headLength = 2};
    if (frame->isMasked && !isServer) fail(EXIT_LOST, "a masked frame came from the relay");
    if (!frame->isMasked && isServer) fail(EXIT_LOST, "a frame came to the back end that is not masked");
    uint64_t payloadLength = head[1] & 0x7F;
    if (payloadLength >= 126) {
        size_t lengthBytes = payloadLength == 126 ? 2 : 8;
        if (length < 2 + lengthBytes) return false;
        payloadLength = 0;
        for (size_t i = 0; i < lengthBytes; i++) payloadLength = payloadLength << 8 | head[2 + i];
        frame->headLength += lengthBytes;
        if (payloadLength > MESSAGE_BYTES) fail(EXIT_LOST, "a frame of more than %d bytes came", MESSAGE_BYTES);
    }
    frame->length = payloadLength;
    if (frame->isMasked) {
        if (length < frame->headLength + 4) return false;
        memcpy(&frame->mask, bytes + frame->headLength, 4);
        frame->headLength += 4;
    }
    bool isControl = frame->opcode & 8;
    if (isControl && (!frame->isFinal || payloadLength > 125)) {
        fail(EXIT_LOST, "a control frame came that is fragmented or too long");
    }
    return true;
}

size_t frame_write(const struct frame *frame, char *bytes) {
    unsigned char *head = (unsigned char *)bytes;
    unsigned char maskBit = frame->isMasked ? 0x80 : 0;
    size_t headLength = 2;
    head[0] = (unsigned char)(0x80 | frame->opcode);
    if (frame->length < 126) {
        head[1] = (unsigned char)(maskBit | frame->length);
    } else if (frame->length < 65536) {
        head[1] = maskBit | 126;
        head[2] = (unsigned char)(frame->length >> 8);
        head[3] = (unsigned char)frame->length;
        headLength = 4;
    } else {
        head[1] = maskBit | 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (unsigned char)((uint64_t)frame->length >> (56 - 8 * i));
        headLength = 10;
    }
    if (!frame->isMasked) return headLength;
    memcpy(head + headLength, &frame->mask, 4);
    return headLength + 4;
}

void frame_mask(uint32_t key, char *payload, size_t length) {
    uint64_t mask = (uint64_t)key << 32 | key, word;
    size_t offset = 0;
    for (; offset + 8 <= length; offset += 8) {
        memcpy(&word, payload + offset, 8);
        word ^= mask;
        memcpy(payload + offset, &word, 8);
    }
    for (; offset < length; offset++) payload[offset] ^= ((const char *)&mask)[offset & 7];
}
