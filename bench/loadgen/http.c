#define _GNU_SOURCE
#include "http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "fail.h"

enum { HEAD_BYTES = 16 << 10, BODY_BYTES = 64 << 20 };

/// The length of the body: what the head's fields say, of which `end` is the end.
static size_t body_length(const char *field, const char *end) {
    static const char name[] = "content-length:", coding[] = "transfer-encoding:";
    size_t length = 0;
    for (; field < end; field = (const char *)memmem(field, (size_t)(end - field), "\r\n", 2) + 2) {
        size_t left = (size_t)(end - field);
        if (left > sizeof coding && strncasecmp(field, coding, sizeof coding - 1) == 0) {
            fail(EXIT_LOST, "a body came with a transfer coding");
        }
        if (left > sizeof name && strncasecmp(field, name, sizeof name - 1) == 0) {
            length = strtoull(field + sizeof name - 1, NULL, 10);
        }
    }
    if (length > BODY_BYTES) fail(EXIT_LOST, "a body of more than %d bytes came", BODY_BYTES);
    return length;
}

size_t http_take(struct http_message *message, const char *bytes, size_t length) {
    const char *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (end == NULL) {
        if (length > HEAD_BYTES) fail(EXIT_LOST, "a head of more than %d bytes came", HEAD_BYTES);
        return 0;
    }
    const char *lineEnd = memmem(bytes, length, "\r\n", 2);
    const char *space = memchr(bytes, ' ', (size_t)(lineEnd - bytes));
    if (space == NULL) fail(EXIT_LOST, "\"%.*s\" begins no message of HTTP", (int)(lineEnd - bytes), bytes);
    *message = (struct http_message){
        .start = bytes, .startLength = (size_t)(lineEnd - bytes), .body = end + 4,
        .bodyLength = body_length(lineEnd + 2, end + 2)};
    if (strncmp(bytes, "HTTP/", 5) == 0) {
        message->status = atoi(space + 1);
    } else {
        const char *second = memchr(space + 1, ' ', (size_t)(lineEnd - space - 1));
        if (second == NULL) fail(EXIT_LOST, "\"%.*s\" is no request line", (int)(lineEnd - bytes), bytes);
        message->target = space + 1;
        message->targetLength = (size_t)(second - space - 1);
    }
    size_t whole = (size_t)(message->body - bytes) + message->bodyLength;
    return whole <= length ? whole : 0;
}

bool http_is(const struct http_message *request, const char *method) {
    size_t length = strlen(method);
    return request->startLength > length && memcmp(request->start, method, length) == 0
        && request->start[length] == ' ';
}
