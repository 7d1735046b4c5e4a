#include "echo.h"

#include <string.h>

#include "fail.h"

#define WORD "0123456789abcdef0123456789abcdef"

static const char question[] = "{\"instruction\":\"echo\",\"parameters\":[\"" WORD "\"]}";

static void opened(struct connection *connection) {
    (void)connection;
}

static void send_back(struct connection *connection, enum opcode opcode, const char *bytes, size_t length) {
    connection_send(connection, opcode, bytes, length);
}

static void closed(struct connection *connection) {
    (void)connection;
}

const struct connection_events echoEvents = {.opened = opened, .message = send_back, .closed = closed};

void echo_ask(struct connection *connection) {
    connection_send(connection, OPCODE_TEXT, question, sizeof question - 1);
}

void echo_check(bool isFromBackend, enum opcode opcode, const char *bytes, size_t length) {
    const char *expected = isFromBackend ? question : WORD;
    if (opcode != OPCODE_TEXT || length != strlen(expected) || memcmp(bytes, expected, length) != 0) {
        fail(EXIT_LOST, "echo was answered \"%.*s\"", length < 200 ? (int)length : 200, bytes);
    }
}
