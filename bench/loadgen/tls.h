// TLS under a connection, by OpenSSL: TLS 1.3 with TLS_AES_128_GCM_SHA256 and nothing else, so that every relay does
// the same work.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct tls;
struct tls_session;  // What a client resumes by.

enum tls_progress { TLS_DONE, TLS_WAITS_TO_READ };

/// The certificate chain and key (PEM, both in one file) of back ends.
void tls_use_certificate(const char *path);

/// TLS on a connected socket. A client offers `*session` where there is one, and keeps the ticket that it is given in
/// `*session`; NULL: does not resume.
struct tls *tls_client(int fd, struct tls_session **session);
struct tls *tls_server(int fd);
void tls_free(struct tls *tls);

/// Goes on with the handshake. Ends the run where it fails.
enum tls_progress tls_handshake(struct tls *tls);

/// The handshake resumed an earlier session.
bool tls_is_resumed(struct tls *tls);

/// As recv(2) and send(2) on a socket that does not block: -1 and EAGAIN where it would.
ssize_t tls_receive(struct tls *tls, void *bytes, size_t length);
ssize_t tls_send(struct tls *tls, const void *bytes, size_t length);

/// What was read from the socket and is not yet received: the socket will not tell of it.
bool tls_has_pending(const struct tls *tls);
