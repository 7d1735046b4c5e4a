// Messages of HTTP/1.1 with a Content-Length (RFC 9112), as far as a back end and its client need them.

#pragma once

#include <stdbool.h>
#include <stddef.h>

struct http_message {
    const char *start;  // The method of a request, the version of an answer.
    size_t startLength;  // To the end of the first line.
    const char *target;  // Of a request.
    size_t targetLength;
    int status;  // Of an answer; 0 for a request.
    const char *body;
    size_t bodyLength;
};

/// Takes a whole message off the front of `bytes`; returns its length, 0 where more must come. Ends the run where it is
/// none, or has a body of another kind.
size_t http_take(struct http_message *message, const char *bytes, size_t length);

bool http_is(const struct http_message *request, const char *method);
