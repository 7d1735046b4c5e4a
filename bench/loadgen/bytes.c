#include "bytes.h"

#include <stdlib.h>
#include <string.h>

#include "fail.h"

void bytes_reserve(struct bytes *bytes, size_t additional) {
    size_t needed = bytes->length + additional;
    if (needed <= bytes->capacity) return;
    size_t capacity = bytes->capacity < 256 ? 256 : bytes->capacity;
    while (capacity < needed) capacity *= 2;
    bytes->start = realloc(bytes->start, capacity);
    if (bytes->start == NULL) fail(EXIT_LOST, "out of memory");
    bytes->capacity = capacity;
}

void bytes_append(struct bytes *bytes, const void *source, size_t length) {
    if (length == 0) return;
    bytes_reserve(bytes, length);
    memcpy(bytes->start + bytes->length, source, length);
    bytes->length += length;
}

void bytes_drop(struct bytes *bytes, size_t length) {
    bytes->length -= length;
    if (bytes->length == 0) bytes_release(bytes);
    else if (length > 0) memmove(bytes->start, bytes->start + length, bytes->length);
}

void bytes_release(struct bytes *bytes) {
    free(bytes->start);
    *bytes = (struct bytes){0};
}
