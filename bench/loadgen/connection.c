#define _GNU_SOURCE
#include "connection.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fail.h"

enum {
    RECEIVE_BYTES = 256 << 10,
    // An incomplete frame up to this size is copied to the front of the shared buffer; a longer one is completed where
    // it is.
    COPIED_BYTES = 4096,
    BACKLOG = 4096,
};

static struct bytes received;  // Shared by all connections: what one recv brings, after what was left of the last.

// MARK: Opening

static struct connection *make(
    int fd, const struct target *target, const struct connection_events *events, void *owner) {
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) fail(EXIT_LOST, "out of memory");
    if (fd < 0) fail(EXIT_LOST, "socket: %s; raise the limit of open files (ulimit -n)", strerror(errno));
    *connection = (struct connection){.fd = fd, .target = target, .events = events, .owner = owner};
    return connection;
}

static struct sockaddr_in address_of(const struct target *target) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(target->port), .sin_addr.s_addr = target->address};
}

static void send_at_once(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

struct connection *connection_open(const struct target *target, uint32_t source, struct tls_session **session,
                                   const struct connection_events *events, void *owner) {
    struct connection *connection =
        make(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), target, events, owner);
    connection->state = CONNECTING;
    send_at_once(connection->fd);
    if (target->receiveBytes > 0) {
        // Before connecting, for it bounds the window that is offered (tcp(7)).
        setsockopt(connection->fd, SOL_SOCKET, SO_RCVBUF, &target->receiveBytes, sizeof target->receiveBytes);
    }
    if ((ntohl(target->address) >> 24) == 127) {
        int on = 1;
        struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7F000001u + source)};
        setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(connection->fd, (struct sockaddr *)&local, sizeof local) != 0) {
            fail(EXIT_LOST, "bind to loopback address number %u: %s", source, strerror(errno));
        }
    }
    struct sockaddr_in remote = address_of(target);
    if (connect(connection->fd, (struct sockaddr *)&remote, sizeof remote) != 0 && errno != EINPROGRESS) {
        fail(EXIT_UNREACHABLE, "cannot connect to port %u: %s", target->port, strerror(errno));
    }
    if (target->isTLS) connection->tls = tls_client(connection->fd, session);
    loop_watch(connection, true, EPOLLOUT);
    return connection;
}

void connection_listen(const struct target *target, const struct connection_events *events) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct connection *listener = make(fd, target, events, NULL);
    listener->state = LISTENING;
    struct sockaddr_in local = address_of(target);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&local, sizeof local) != 0 || listen(fd, BACKLOG) != 0) {
        fail(EXIT_UNREACHABLE, "cannot listen on port %u: %s", target->port, strerror(errno));
    }
    loop_watch(listener, true, EPOLLIN);
}

static void opened(struct connection *connection) {
    connection->state = OPEN;
    connection->events->opened(connection);
}

static void accept_all(struct connection *listener) {
    for (int fd; (fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct connection *connection = make(fd, listener->target, listener->events, NULL);
        connection->isServer = true;
        connection->state = listener->target->isTLS ? SECURING : SHAKING_HANDS;
        send_at_once(fd);
        if (listener->target->isTLS) connection->tls = tls_server(fd);
        loop_watch(connection, true, EPOLLIN);
        if (connection->events->bytes != NULL) opened(connection);
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) fail(EXIT_LOST, "accept: %s", strerror(errno));
}

/// A client sends its opening handshake with a key of its own; a back end waits for one.
static void shake_hands(struct connection *connection) {
    if (connection->events->bytes != NULL) return opened(connection);
    connection->state = SHAKING_HANDS;
    if (connection->isServer) return;
    uint32_t nonce[4] = {next_random(), next_random(), next_random(), next_random()};
    char head[1024];
    size_t length = handshake_write(&connection->handshake, connection->target, nonce, head, sizeof head);
    bytes_append(&connection->output, head, length);
    loop_flush_later(connection);
}

static void secure(struct connection *connection) {
    connection->state = SECURING;
    if (tls_handshake(connection->tls) == TLS_DONE) shake_hands(connection);
}

/// The TCP connection stands or has failed.
static void connected(struct connection *connection) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
        fail(EXIT_UNREACHABLE, "cannot connect to port %u: %s", connection->target->port, strerror(error));
    }
    loop_watch(connection, false, EPOLLIN);
    if (connection->tls != NULL) secure(connection);
    else shake_hands(connection);
}

// MARK: Closing

static void close_socket(struct connection *connection) {
    if (connection->tls != NULL) tls_free(connection->tls);
    connection->tls = NULL;
    connection->state = CLOSED;
    close(connection->fd);
    bytes_release(&connection->input);
    bytes_release(&connection->message);
    bytes_release(&connection->output);
}

static void closed(struct connection *connection) {
    close_socket(connection);
    connection->events->closed(connection);
    loop_free_later(connection);
}

void connection_close(struct connection *connection) {
    connection_send(connection, OPCODE_CLOSE, "\x03\xE8", 2);
    connection->closeIsSent = true;
}

void connection_abandon(struct connection *connection) {
    if (connection->state == CLOSED) return;
    if (connection->state == OPEN && connection->output.length == 0) {
        connection_close(connection);
        connection_flush(connection);
    }
    close_socket(connection);
}

/// The peer wants to close, or agrees to: a back end closes once its answer is sent, a client waits for the relay.
static void close_came(struct connection *connection, const char *payload, size_t length) {
    int code = length >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
    if (connection->events->closed == NULL || (!connection->isServer && !connection->closeIsSent)) {
        fail(EXIT_LOST, "the relay closed a connection: %d %.*s", code, length > 2 ? (int)length - 2 : 0, payload + 2);
    }
    connection->closeIsReceived = true;
    if (!connection->closeIsSent) connection_close(connection);
}

/// The relay has closed the socket.
static void ended(struct connection *connection, const char *reason) {
    bool isAgreed = connection->events->closed != NULL && connection->closeIsReceived;
    // A proxy tells the back end of a client that is gone by closing, too.
    if (!isAgreed && !(connection->isServer && connection->events->closed != NULL)) {
        fail(EXIT_LOST, "the relay cut a connection%s", reason);
    }
    closed(connection);
}

// MARK: Receiving

static void control_frame(struct connection *connection, enum opcode opcode, const char *payload, size_t length) {
    switch (opcode) {
    case OPCODE_PING: connection_send(connection, OPCODE_PONG, payload, length); return;
    case OPCODE_PONG: return;
    case OPCODE_CLOSE: close_came(connection, payload, length); return;
    default: fail(EXIT_LOST, "a frame with opcode %d came", opcode);
    }
}

static void data_frame(
    struct connection *connection, bool isFinal, enum opcode opcode, const char *payload, size_t length) {
    if (connection->isInsideMessage != (opcode == OPCODE_CONTINUATION)) {
        fail(EXIT_LOST, "a fragment came out of order (opcode %d)", opcode);
    }
    if (opcode == OPCODE_TEXT || opcode == OPCODE_BINARY) {
        connection->messageOpcode = opcode;
    } else if (opcode != OPCODE_CONTINUATION) {
        fail(EXIT_LOST, "a frame with opcode %d came", opcode);
    }
    if (isFinal && !connection->isInsideMessage) {
        connection->events->message(connection, opcode, payload, length);
        return;
    }
    connection->isInsideMessage = !isFinal;
    bytes_append(&connection->message, payload, length);
    if (connection->message.length > MESSAGE_BYTES) {
        fail(EXIT_LOST, "a message of more than %d bytes came", MESSAGE_BYTES);
    }
    if (!isFinal) return;
    struct bytes whole = connection->message;
    connection->message = (struct bytes){0};
    connection->events->message(connection, connection->messageOpcode, whole.start, whole.length);
    bytes_release(&whole);
}

/// Takes one frame off the front of `bytes`; returns its length, 0 where more must come.
static size_t take_frame(struct connection *connection, char *bytes, size_t length) {
    struct frame frame;
    if (!frame_read(&frame, connection->isServer, bytes, length)) return 0;
    if (length - frame.headLength < frame.length) return 0;
    char *payload = bytes + frame.headLength;
    if (frame.isMasked) frame_mask(frame.mask, payload, frame.length);
    if (frame.opcode & 8) control_frame(connection, frame.opcode, payload, frame.length);
    else data_frame(connection, frame.isFinal, frame.opcode, payload, frame.length);
    return frame.headLength + frame.length;
}

/// Takes the peer's half of the handshake off the front of `bytes`; returns its length, 0 where more must come.
static size_t take_handshake(struct connection *connection, const char *bytes, size_t length) {
    size_t taken;
    if (connection->isServer) {
        char head[256];
        bytes_append(&connection->output, head, handshake_answer(bytes, length, &taken, head, sizeof head));
        loop_flush_later(connection);
    } else {
        taken = handshake_check(&connection->handshake, bytes, length);
    }
    if (taken == 0) return 0;
    opened(connection);
    return taken;
}

/// Takes what is complete off the front of `bytes`; returns how much that was.
static size_t take(struct connection *connection, char *bytes, size_t length) {
    size_t taken = 0;
    if (connection->state == SHAKING_HANDS) taken = take_handshake(connection, bytes, length);
    while (connection->state == OPEN && !connection->closeIsReceived && !connection->isPaused) {
        char *rest = bytes + taken;
        size_t piece = connection->events->bytes != NULL ? connection->events->bytes(connection, rest, length - taken)
                                                         : take_frame(connection, rest, length - taken);
        if (piece == 0) break;
        taken += piece;
    }
    return taken;
}

/// Watches for output as well, or no longer.
static void watch(struct connection *connection, bool wantsOutput) {
    connection->isWaitingForWritable = wantsOutput;
    loop_watch(connection, false, (connection->isPaused ? 0 : EPOLLIN) | (wantsOutput ? EPOLLOUT : 0));
}

void connection_pause(struct connection *connection) {
    connection->isPaused = true;
    watch(connection, connection->isWaitingForWritable);
}

/// Receives once; false where nothing came.
static bool receive(struct connection *connection) {
    struct bytes *input = &connection->input, *into = input;
    if (input->length <= COPIED_BYTES) {
        into = &received;
        received.length = 0;
        bytes_append(&received, input->start, input->length);
    }
    bytes_reserve(into, RECEIVE_BYTES);
    char *end = into->start + into->length;
    ssize_t count = connection->tls != NULL ? tls_receive(connection->tls, end, RECEIVE_BYTES)
                                            : recv(connection->fd, end, RECEIVE_BYTES, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (count <= 0) {
        ended(connection, count < 0 ? ", with an error" : " without a close frame");
        return false;
    }
    into->length += (size_t)count;
    size_t taken = take(connection, into->start, into->length);
    if (connection->state == CLOSED) return false;
    if (into == input) {
        bytes_drop(input, taken);
    } else {
        bytes_release(input);
        bytes_append(input, received.start + taken, received.length - taken);
    }
    return true;
}

// MARK: Sending

char *connection_begin(struct connection *connection, enum opcode opcode, size_t length) {
    struct bytes *output = &connection->output;
    bytes_reserve(output, FRAME_HEAD_BYTES + length);
    bool isMasked = !connection->isServer;
    connection->written = (struct frame){.opcode = opcode, .isFinal = true, .isMasked = isMasked,
                                         .mask = isMasked ? next_random() : 0, .length = length};
    output->length += frame_write(&connection->written, output->start + output->length);
    return output->start + output->length;
}

void connection_end(struct connection *connection) {
    struct bytes *output = &connection->output;
    const struct frame *frame = &connection->written;
    if (frame->isMasked) frame_mask(frame->mask, output->start + output->length, frame->length);
    output->length += frame->length;
    if (!connection->isWaitingForWritable) loop_flush_later(connection);
}

void connection_send(struct connection *connection, enum opcode opcode, const void *bytes, size_t length) {
    char *payload = connection_begin(connection, opcode, length);
    if (length > 0) memcpy(payload, bytes, length);
    connection_end(connection);
}

void connection_write(struct connection *connection, const void *bytes, size_t length) {
    bytes_append(&connection->output, bytes, length);
    if (!connection->isWaitingForWritable) loop_flush_later(connection);
}

void connection_flush(struct connection *connection) {
    struct bytes *output = &connection->output;
    if (connection->state != SHAKING_HANDS && connection->state != OPEN) return;
    while (connection->outputSent < output->length) {
        const char *start = output->start + connection->outputSent;
        size_t length = output->length - connection->outputSent;
        ssize_t count = connection->tls != NULL ? tls_send(connection->tls, start, length)
                                                : send(connection->fd, start, length, MSG_NOSIGNAL);
        if (count > 0) {
            connection->outputSent += (size_t)count;
        } else if (errno == EAGAIN) {
            if (!connection->isWaitingForWritable) watch(connection, true);
            return;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return;  // Receiving tells what happened.
        } else if (errno != EINTR) {
            fail(EXIT_LOST, "send: %s", strerror(errno));
        }
    }
    output->length = 0;
    connection->outputSent = 0;
    if (connection->isWaitingForWritable) watch(connection, false);
    if (connection->isServer && connection->closeIsReceived) closed(connection);
}

// MARK: The loop

void connection_ready(struct connection *connection, uint32_t events) {
    switch (connection->state) {
    case LISTENING: accept_all(connection); return;
    case CONNECTING: connected(connection); return;
    case SECURING:
        secure(connection);
        if (connection->state == SECURING) return;
        break;  // What came behind the handshake is in the TLS object by now.
    case CLOSED: return;
    case SHAKING_HANDS:
    case OPEN: break;
    }
    if (events & EPOLLOUT) connection_flush(connection);
    if (connection->state == CLOSED || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    while (receive(connection) && connection->tls != NULL && tls_has_pending(connection->tls)) {}
}
