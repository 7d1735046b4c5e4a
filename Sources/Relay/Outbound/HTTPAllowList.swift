/// Where scripts may send HTTP requests (`--http-allow`). A relay stands where its clients cannot reach, so a script
/// that takes a URL from a client must not become their way in (server-side request forgery).
///
/// The host of a URL is looked up here before anything is done, and the address that it resolved to once more, when
/// the socket is made: what a name resolves to is its owner's choice, and can change between two questions.
package struct HTTPAllowList: Sendable, Equatable {
    package struct Entry: Sendable, Equatable, CustomStringConvertible {
        enum Host: Sendable, Equatable {
            case name(String)
            /// `*.example.com`: what is below, at any depth; the domain itself is not.
            case below(String)
            case addresses(CIDR)
        }
        let host: Host
        /// Nil for every port.
        let port: UInt16?
        package let description: String
    }

    /// The host of a URL, as far as it is decided already.
    package enum Host: Sendable, Equatable {
        /// A name that is listed: it may lead to public addresses.
        case name
        /// `localhost`, which is listed: it may lead to this machine as well.
        case localhost
        /// An address.
        case address
    }

    package let entries: [Entry]

    package init(_ entries: [Entry] = []) {
        self.entries = entries
    }

    // MARK: Questions

    /// Whether a URL may name this host and port; nil where not. IPv6 addresses come without brackets.
    package func host(_ text: String, port: UInt16) -> Host? {
        if let address = IPAddress(text) { return covers(address, port: port) ? .address : nil }
        let name = text.lowercased()
        let isListed = entries.contains { entry in
            guard entry.port == nil || entry.port == port else { return false }
            switch entry.host {
            case .name(let listed): return name == listed
            case .below(let domain): return name.hasSuffix("." + domain)
            case .addresses: return false
            }
        }
        guard isListed else { return nil }
        return name == "localhost" ? .localhost : .name
    }

    /// Whether a socket may be connected to the address, which `host` has led to.
    package func allows(_ address: IPAddress, port: UInt16, for host: Host) -> Bool {
        if covers(address, port: port) { return true }
        switch host {
        case .address: return false
        case .localhost: return address.isLoopback || address.isPublic
        case .name: return address.isPublic
        }
    }

    private func covers(_ address: IPAddress, port: UInt16) -> Bool {
        entries.contains { entry in
            guard case .addresses(let range) = entry.host, entry.port == nil || entry.port == port else { return false }
            return range.contains(address)
        }
    }
}

// MARK: Reading

extension HTTPAllowList.Entry {
    /// Reads `NAME`, `*.DOMAIN`, an address or a range of addresses, each with or without `:PORT`; an IPv6 address with
    /// a port stands in brackets.
    package init(parsing text: String) throws(ConfigurationError) {
        let wrong = ConfigurationError(
            "http.allow has \"\(text)\", but takes a name, *.DOMAIN, an address or a range as in 10.0.0.0/8, each with "
                + "or without :PORT; an IPv6 address with a port is written in brackets.")
        description = text
        if let range = CIDR(text) {
            (host, port) = (.addresses(range), nil)
            return
        }
        var name = Substring(text)
        var port: UInt16?
        if let colon = text.lastIndex(of: ":"), !text.hasSuffix("]") {
            let digits = text[text.index(after: colon)...]
            guard digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = UInt16(digits), number > 0 else {
                throw wrong
            }
            (name, port) = (text[..<colon], number)
        }
        self.port = port
        if name.hasPrefix("["), let bracket = name.lastIndex(of: "]") {
            // The length of a range stands inside of the brackets, or behind them.
            let inside = name.dropFirst().prefix { $0 != "]" }
            guard let range = CIDR(String(inside + name[name.index(after: bracket)...])), inside.contains(":") else {
                throw wrong
            }
            host = .addresses(range)
        } else if let range = CIDR(String(name)), range.network.isIPv4 {
            host = .addresses(range)
        } else if name.hasPrefix("*."), Self.isName(name.dropFirst(2)) {
            host = .below(name.dropFirst(2).lowercased())
        } else if Self.isName(name) {
            host = .name(name.lowercased())
        } else {
            throw wrong
        }
    }

    /// Labels of letters, digits, `-` and `_`, the last of which is no number: what ends in one is meant as an address
    /// (the URL standard §3.5), and is none that `CIDR` reads.
    private static func isName(_ text: Substring) -> Bool {
        let labels = text.split(separator: ".", omittingEmptySubsequences: false)
        let isEach = labels.allSatisfy { label in
            (1...63).contains(label.utf8.count)
                && label.utf8.allSatisfy { byte in
                    switch byte {
                    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                        true
                    default: false
                    }
                }
        }
        guard isEach, text.utf8.count <= 253, let last = labels.last else { return false }
        let isNumber = last.utf8.allSatisfy { (48...57).contains($0) } || last.lowercased().hasPrefix("0x")
        return !isNumber
    }
}
