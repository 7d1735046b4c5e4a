import Relay
import Testing

@testable import RelayClient

@Suite struct RequestTests {
    @Test func `a request is one JSON object with what was given`() {
        #expect(
            RelayConnection.requestText("x \"y\"", .array([.integer(1), .null]), credential: "c", id: 7)
                == #"{"credential":"c","id":7,"instruction":"x \"y\"","parameters":[1,null]}"#)
        #expect(RelayConnection.requestText("x", nil) == #"{"instruction":"x"}"#)
    }

    @Test func `JSON keeps integers whole and tells booleans from numbers`() throws {
        #expect(JSONValue(json: "9007199254740993") == .integer(9_007_199_254_740_993))
        #expect(JSONValue(json: "1.5") == .number(1.5))
        #expect(JSONValue(json: "true") == .bool(true))
        #expect(JSONValue(json: "1") == .integer(1))
        #expect(JSONValue(json: "\"a\"") == .string("a"))
        #expect(JSONValue(json: "box") == nil)
        #expect(JSONValue(json: "{\"a\":[null]}")?.json() == "{\"a\":[null]}")
    }

    @Test func `the accept key is RFC 6455's example`() {
        #expect(
            Digest.webSocketAccept(key: Array("dGhlIHNhbXBsZSBub25jZQ==".utf8)) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    }
}
