// A growing run of bytes.

#pragma once

#include <stddef.h>

struct bytes {
    char *start;
    size_t length, capacity;
};

/// Makes room for `additional` bytes behind the filled part.
void bytes_reserve(struct bytes *bytes, size_t additional);

void bytes_append(struct bytes *bytes, const void *source, size_t length);

/// Takes `length` bytes off the front; nothing stays allocated where nothing is left.
void bytes_drop(struct bytes *bytes, size_t length);

void bytes_release(struct bytes *bytes);
