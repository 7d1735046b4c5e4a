#define _GNU_SOURCE
#include "handshake.h"

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fail.h"

enum { HEAD_BYTES = 16 << 10 };

struct target target_parse(const char *url) {
    struct target target = {.path = "/"};
    char scheme[4], host[64], rest[500] = "";
    unsigned port;
    if (sscanf(url, "%3[cpstw]://%63[^:/?]:%u%499s", scheme, host, &port, rest) < 3 || port == 0 || port > 65535
        || (strcmp(scheme, "ws") != 0 && strcmp(scheme, "wss") != 0 && strcmp(scheme, "tcp") != 0)) {
        fail(EXIT_USAGE, "%s is not ws://, wss:// or tcp:// with ADDRESS:PORT and an optional path", url);
    }
    if (strcmp(host, "localhost") == 0) strcpy(host, "127.0.0.1");
    if (inet_pton(AF_INET, host, &target.address) != 1) {
        fail(EXIT_USAGE, "%s: %s is not an IPv4 address", url, host);
    }
    target.isTLS = strcmp(scheme, "wss") == 0;
    target.port = (uint16_t)port;
    snprintf(target.path, sizeof target.path, "%s%s", rest[0] == '/' ? "" : "/", rest);
    return target;
}

/// Sec-WebSocket-Accept for a key: base64 of SHA-1 (§4.2.2), with its 0 at the end.
static void write_accept(char accept[29], const char *key, size_t keyLength) {
    char joined[128];
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned digestLength = 0;
    int joinedLength = snprintf(joined, sizeof joined, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", (int)keyLength, key);
    if (EVP_Digest(joined, (size_t)joinedLength, digest, &digestLength, EVP_sha1(), NULL) != 1) {
        fail(EXIT_LOST, "this OpenSSL has no SHA-1");
    }
    EVP_EncodeBlock((unsigned char *)accept, digest, (int)digestLength);
}

size_t handshake_write(struct handshake *handshake, const struct target *target, const uint32_t nonce[4], char *head,
                       size_t capacity) {
    char key[25], host[INET_ADDRSTRLEN];
    EVP_EncodeBlock((unsigned char *)key, (const unsigned char *)nonce, 16);
    write_accept(handshake->expectedAccept, key, 24);
    inet_ntop(AF_INET, &target->address, host, sizeof host);
    handshake->subprotocol = target->subprotocol;
    int length = snprintf(head, capacity,
        "GET %s HTTP/1.1\r\nHost: %s:%u\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n", target->path, host, target->port, key,
        target->subprotocol ? "Sec-WebSocket-Protocol: " : "", target->subprotocol ? target->subprotocol : "",
        target->subprotocol ? "\r\n" : "");
    return (size_t)length;
}

/// The value of the header field `name` (lower case, with its colon) in the lines from `line` to `end`; NULL where it
/// is missing. `end` points at the empty line.
static const char *find_field(const char *line, const char *end, const char *name, size_t *length) {
    size_t nameLength = strlen(name);
    while (line < end) {
        const char *lineEnd = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        if ((size_t)(lineEnd - line) >= nameLength && strncasecmp(line, name, nameLength) == 0) {
            const char *value = line + nameLength;
            while (value < lineEnd && (*value == ' ' || *value == '\t')) value++;
            *length = (size_t)(lineEnd - value);
            return value;
        }
        line = lineEnd + 2;
    }
    return NULL;
}

static bool has_field(const char *line, const char *end, const char *name, const char *expected) {
    size_t length = 0;
    const char *value = find_field(line, end, name, &length);
    return value != NULL && length == strlen(expected) && memcmp(value, expected, length) == 0;
}

size_t handshake_check(const struct handshake *handshake, const char *bytes, size_t length) {
    const char *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (end == NULL) {
        if (length > HEAD_BYTES) fail(EXIT_LOST, "the answer to a handshake does not end within %d bytes", HEAD_BYTES);
        return 0;
    }
    const char *statusEnd = memmem(bytes, length, "\r\n", 2);
    if (statusEnd - bytes < 12 || memcmp(bytes, "HTTP/1.1 101", 12) != 0) {
        fail(EXIT_LOST, "a handshake was answered \"%.*s\"", (int)(statusEnd - bytes), bytes);
    }
    if (!has_field(statusEnd + 2, end, "sec-websocket-accept:", handshake->expectedAccept)) {
        fail(EXIT_LOST, "a handshake was answered without the right Sec-WebSocket-Accept");
    }
    if (handshake->subprotocol != NULL
        && !has_field(statusEnd + 2, end, "sec-websocket-protocol:", handshake->subprotocol)) {
        fail(EXIT_LOST, "a handshake was answered without the subprotocol %s", handshake->subprotocol);
    }
    return (size_t)(end + 4 - bytes);
}

size_t handshake_answer(const char *bytes, size_t length, size_t *taken, char *head, size_t capacity) {
    const char *end = memmem(bytes, length, "\r\n\r\n", 4);
    *taken = 0;
    if (end == NULL) {
        if (length > HEAD_BYTES) fail(EXIT_LOST, "a request to the back end does not end within %d bytes", HEAD_BYTES);
        return 0;
    }
    const char *lineEnd = memmem(bytes, length, "\r\n", 2);
    size_t keyLength = 0;
    const char *key = find_field(lineEnd + 2, end, "sec-websocket-key:", &keyLength);
    if (key == NULL || keyLength != 24 || memcmp(bytes, "GET ", 4) != 0) {
        fail(EXIT_LOST, "the back end was asked \"%.*s\"", (int)(lineEnd - bytes), bytes);
    }
    char accept[29];
    write_accept(accept, key, keyLength);
    *taken = (size_t)(end + 4 - bytes);
    return (size_t)snprintf(head, capacity,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
}
