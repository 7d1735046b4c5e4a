internal import CCurl
internal import Glibc

/// The sockets of connections that were kept behind an answer of HTTP/1, by their local ports.
///
/// What a server says when nothing was asked must not be taken for the next answer, which may be about somebody else
/// (RFC 9112 §9.2). libcurl looks at that from version 8 on, and tells neither here nor there which socket a request
/// will use: only the local port. A socket that has become another's since costs one connection, at worst.
final class KeptSockets {
    private var byLocalPort: [Int: Int32] = [:]

    /// A transfer has ended: its connection may be kept.
    func remember(_ easy: UnsafeMutableRawPointer) {
        var port = 0
        var version = 0
        var socket = CURL_SOCKET_BAD
        guard ccurl_get_number(easy, CURLINFO_LOCAL_PORT, &port) == CURLE_OK, port > 0,
            ccurl_get_number(easy, CURLINFO_HTTP_VERSION, &version) == CURLE_OK,
            ccurl_get_socket(easy, CURLINFO_ACTIVESOCKET, &socket) == CURLE_OK
        else { return }
        // HTTP/2 says things of its own at any time.
        let isPlain = version == CURL_HTTP_VERSION_1_0 || version == CURL_HTTP_VERSION_1_1
        byLocalPort[port] = isPlain && socket != CURL_SOCKET_BAD ? socket : nil
    }

    /// Whether something has come on the connection that was kept with this local port.
    func hasInput(localPort: Int) -> Bool {
        guard let socket = byLocalPort.removeValue(forKey: localPort) else { return false }
        var byte: UInt8 = 0
        return recv(socket, &byte, 1, Int32(MSG_PEEK | MSG_DONTWAIT)) > 0
    }
}
