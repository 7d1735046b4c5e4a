#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "fail.h"

// A `struct tls` is an SSL, a `struct tls_session` an SSL_SESSION.

enum { READ_AHEAD_BYTES = 64 << 10 };

static SSL_CTX *clients, *servers;
static int sessionIndex;  // Of the place where a client's session is kept.

_Noreturn static void give_up(const char *what) {
    char reason[200] = "";
    ERR_error_string_n(ERR_get_error(), reason, sizeof reason);
    fail(EXIT_LOST, "TLS: %s: %s", what, reason);
}

/// OpenSSL hands over the ticket that a server gave (TLS 1.3: after the handshake); 1: it is ours now.
static int keep_session(SSL *tls, SSL_SESSION *session) {
    SSL_SESSION **place = SSL_get_ex_data(tls, sessionIndex);
    if (place == NULL) return 0;
    SSL_SESSION_free(*place);
    *place = session;
    return 1;
}

static SSL_CTX *make_context(const SSL_METHOD *method) {
    SSL_CTX *context = SSL_CTX_new(method);
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1
        || SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") != 1) {
        give_up("setting up");
    }
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                                  | SSL_MODE_RELEASE_BUFFERS);
    // A relay may close without close_notify: WebSocket has a close of its own.
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    // Many records in one read(2); the buffer is freed where nothing is left in it.
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD_BYTES);
    return context;
}

void tls_use_certificate(const char *path) {
    servers = make_context(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(servers, path) != 1
        || SSL_CTX_use_PrivateKey_file(servers, path, SSL_FILETYPE_PEM) != 1) {
        give_up(path);
    }
}

static struct tls *make(SSL_CTX *context, int fd) {
    SSL *tls = SSL_new(context);
    if (tls == NULL || SSL_set_fd(tls, fd) != 1) give_up("a new connection");
    return (struct tls *)tls;
}

struct tls *tls_client(int fd, struct tls_session **session) {
    if (clients == NULL) {
        clients = make_context(TLS_client_method());
        sessionIndex = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
        SSL_CTX_set_session_cache_mode(clients, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(clients, keep_session);
    }
    struct tls *made = make(clients, fd);
    SSL *tls = (SSL *)made;
    SSL_set_connect_state(tls);
    if (session != NULL) {
        SSL_set_ex_data(tls, sessionIndex, session);
        if (*session != NULL) SSL_set_session(tls, (SSL_SESSION *)*session);
    }
    return made;
}

struct tls *tls_server(int fd) {
    if (servers == NULL) fail(EXIT_USAGE, "a wss:// back end needs --certificate FILE");
    struct tls *made = make(servers, fd);
    SSL_set_accept_state((SSL *)made);
    return made;
}

void tls_free(struct tls *tls) {
    // Without this OpenSSL takes the session for broken, and its ticket is not resumed.
    SSL_set_shutdown((SSL *)tls, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free((SSL *)tls);
}

enum tls_progress tls_handshake(struct tls *tls) {
    ERR_clear_error();
    int result = SSL_do_handshake((SSL *)tls);
    if (result == 1) return TLS_DONE;
    if (SSL_get_error((SSL *)tls, result) != SSL_ERROR_WANT_READ) give_up("a handshake");
    return TLS_WAITS_TO_READ;
}

bool tls_is_resumed(struct tls *tls) {
    return SSL_session_reused((SSL *)tls);
}

/// What recv and send say in the place of an OpenSSL error.
static ssize_t without_data(struct tls *tls, int result) {
    switch (SSL_get_error((SSL *)tls, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: errno = EAGAIN; return -1;
    case SSL_ERROR_ZERO_RETURN: return 0;
    case SSL_ERROR_SYSCALL: return -1;
    default: give_up("a record");
    }
}

ssize_t tls_receive(struct tls *tls, void *bytes, size_t length) {
    size_t total = 0;
    while (total < length) {
        ERR_clear_error();
        size_t count;
        int result = SSL_read_ex((SSL *)tls, (char *)bytes + total, length - total, &count);
        if (result != 1) return total > 0 ? (ssize_t)total : without_data(tls, result);
        total += count;
    }
    return (ssize_t)total;
}

ssize_t tls_send(struct tls *tls, const void *bytes, size_t length) {
    ERR_clear_error();
    size_t count;
    int result = SSL_write_ex((SSL *)tls, bytes, length, &count);
    return result == 1 ? (ssize_t)count : without_data(tls, result);
}

bool tls_has_pending(const struct tls *tls) {
    return SSL_has_pending((const SSL *)tls);
}
