// One message there and back: an instruction that a relay answers with its parameter, or that a back end sends back as
// it is.

#pragma once

#include "connection.h"

/// A back end that sends back what it gets, and closes when it is asked to.
extern const struct connection_events echoEvents;

void echo_ask(struct connection *connection);

/// Ends the run where this is not the answer.
void echo_check(bool isFromBackend, enum opcode opcode, const char *bytes, size_t length);
