/// The status of an HTTP response (RFC 9110 §15): a final one, 200 to 599. The 101 of an upgrade has a type of its own.
package struct HTTPStatus: Hashable, Sendable, CustomStringConvertible {
    /// 200 to 599.
    package let code: Int

    /// A script may have chosen the number: one that is no final status becomes 500.
    package init(code: Int) { self.code = (200...599).contains(code) ? code : 500 }

    package static var ok: HTTPStatus { HTTPStatus(code: 200) }
    package static var permanentRedirect: HTTPStatus { HTTPStatus(code: 308) }
    package static var badRequest: HTTPStatus { HTTPStatus(code: 400) }
    package static var unauthorized: HTTPStatus { HTTPStatus(code: 401) }
    package static var forbidden: HTTPStatus { HTTPStatus(code: 403) }
    package static var notFound: HTTPStatus { HTTPStatus(code: 404) }
    package static var methodNotAllowed: HTTPStatus { HTTPStatus(code: 405) }
    package static var conflict: HTTPStatus { HTTPStatus(code: 409) }
    package static var requestTimeout: HTTPStatus { HTTPStatus(code: 408) }
    package static var contentTooLarge: HTTPStatus { HTTPStatus(code: 413) }
    package static var uriTooLong: HTTPStatus { HTTPStatus(code: 414) }
    package static var expectationFailed: HTTPStatus { HTTPStatus(code: 417) }
    package static var upgradeRequired: HTTPStatus { HTTPStatus(code: 426) }
    package static var headerFieldsTooLarge: HTTPStatus { HTTPStatus(code: 431) }
    package static var internalServerError: HTTPStatus { HTTPStatus(code: 500) }
    package static var badGateway: HTTPStatus { HTTPStatus(code: 502) }
    package static var serviceUnavailable: HTTPStatus { HTTPStatus(code: 503) }
    package static var gatewayTimeout: HTTPStatus { HTTPStatus(code: 504) }
    package static var versionNotSupported: HTTPStatus { HTTPStatus(code: 505) }

    /// The words behind the number on the status line.
    package var reasonPhrase: StaticString {
        switch code {
        case 200: "OK"
        case 201: "Created"
        case 202: "Accepted"
        case 204: "No Content"
        case 301: "Moved Permanently"
        case 302: "Found"
        case 307: "Temporary Redirect"
        case 308: "Permanent Redirect"
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 402: "Payment Required"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 406: "Not Acceptable"
        case 408: "Request Timeout"
        case 409: "Conflict"
        case 410: "Gone"
        case 413: "Content Too Large"
        case 414: "URI Too Long"
        case 415: "Unsupported Media Type"
        case 417: "Expectation Failed"
        case 418: "I'm a Teapot"
        case 421: "Misdirected Request"
        case 422: "Unprocessable Content"
        case 426: "Upgrade Required"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 451: "Unavailable For Legal Reasons"
        case 500: "Internal Server Error"
        case 501: "Not Implemented"
        case 502: "Bad Gateway"
        case 503: "Service Unavailable"
        case 504: "Gateway Timeout"
        case 505: "HTTP Version Not Supported"
        case 507: "Insufficient Storage"
        case ..<300: "Success"
        case ..<400: "Redirection"
        case ..<500: "Client Error"
        default: "Server Error"
        }
    }

    package var description: String { "\(code) \(reasonPhrase)" }
}
