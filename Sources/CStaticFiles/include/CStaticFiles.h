// The files that relayd serves over plain HTTP. The compiler puts them into the binary (C23 #embed) from clients/js,
// the one place where they are written.
#pragma once
#include <stddef.h>

struct cstatic_file {
    const char *path; // Of the request target.
    const char *type; // The media type.
    const unsigned char *bytes;
    size_t count;
};

// All of them, for good.
const struct cstatic_file *cstatic_files(size_t *count);
