// The opening handshake (RFC 6455 §4), and the address that it goes to.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Where the relay listens, from `ws://ADDRESS:PORT/PATH?QUERY`, `wss://…` or `tcp://…`, and how to meet it.
struct target {
    bool isTLS;
    uint32_t address;  // Network byte order.
    uint16_t port;  // Host byte order.
    char path[512];  // Request target; at least "/".
    const char *subprotocol;  // Offered, and expected in the answer (RFC 6455 §1.9); NULL: none.
    int receiveBytes;  // SO_RCVBUF of a client, which the kernel doubles; 0: the system's.
};

/// What is remembered between request and answer: base64 of SHA-1 over the key (§4.2.2), and the subprotocol.
struct handshake {
    char expectedAccept[29];
    const char *subprotocol;
};

/// Parses such an address; ends the run with EXIT_USAGE where it is none.
struct target target_parse(const char *url);

/// Writes the request into `head`, with a key made of `nonce`; returns its length.
size_t handshake_write(struct handshake *handshake, const struct target *target, const uint32_t nonce[4], char *head,
                       size_t capacity);

/// Looks for the whole answer at the front of `bytes`; returns its length, 0 where more must come. Ends the run where
/// the answer is not 101 with the right Sec-WebSocket-Accept and subprotocol.
size_t handshake_check(const struct handshake *handshake, const char *bytes, size_t length);

/// A back end's answer to the whole request at the front of `bytes`, into `head`; `*taken` is the request's length, 0
/// where more must come. Ends the run where the request is no opening handshake. Returns the answer's length.
size_t handshake_answer(const char *bytes, size_t length, size_t *taken, char *head, size_t capacity);
