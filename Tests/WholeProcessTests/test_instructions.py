"""Instruction messages: the forms of requests and replies (DESIGN §6)."""

import re

import pytest

from relay import refusal


def test_a_request_with_an_id_gets_exactly_one_reply(greeter):
    with greeter.connect() as client:
        client.send_json({"instruction": "greet", "parameters": ["you"], "id": 7})
        assert client.receive_json() == {"id": 7, "result": "hello you"}
        assert client.messages() == []


def test_a_request_without_an_id_gets_no_reply_of_the_relays_own(greeter):
    with greeter.connect() as client:
        for request in [
            {"instruction": "greet", "parameters": ["you"]}, {"instruction": "send twice", "parameters": ["text"]},
            {"instruction": "no such instruction"}, {"instruction": "secret"}, {"instruction": "raise"},
            {"instruction": "greet", "credential": "wrong"}, {"instruction": "secret", "parameters": None},
            {"instruction": "greet", "parameters": ["you"], "id": None},
        ]:
            client.send_json(request)
        assert client.messages() == ["text", "text"]


def test_what_a_handler_sends_comes_before_its_reply(greeter):
    with greeter.connect() as client:
        client.send_json({"instruction": "send twice", "parameters": ["x"], "id": 1})
        assert [client.receive(), client.receive()] == ["x", "x"]
        assert client.receive_json() == {"id": 1, "result": "sent"}


@pytest.mark.parametrize(
    "identifier",
    [
        0, 1, -1, 1.5, 1e300, 12345678901234567890, "", "text", "quote \" and \\ and \n", "κόσμε 🦊", True, False,
        [], {}, [1, [2, {"a": None}]], {"a": {"b": [1]}},
    ],
    ids=repr,
)
def test_an_id_of_any_type_comes_back_as_it_was(greeter, identifier):
    with greeter.connect() as client:
        client.send_json({"instruction": "greet", "parameters": ["you"], "id": identifier})
        assert client.receive_json() == {"id": identifier, "result": "hello you"}
        client.send_json({"instruction": "none", "id": identifier})
        reply = client.receive_json()
        assert (reply["id"], reply["error"]["code"]) == (identifier, "unknown_instruction")


def test_the_order_and_the_blanks_of_a_request_do_not_matter(greeter):
    with greeter.connect() as client:
        client.send(' { "id" : 1 ,\n\t"parameters":[ "you" ] , "instruction"\r\n:"\\u0067reet" , "more": {"x": [1]} } ')
        assert client.receive_json() == {"id": 1, "result": "hello you"}


def test_many_requests_in_flight_are_answered_in_order(greeter):
    with greeter.connect() as client:
        for number in range(500):
            client.send_json({"instruction": "greet", "parameters": [number], "id": number})
        for number in range(500):
            assert client.receive_json() == {"id": number, "result": f"hello {number}"}


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "hello", "{", "}", "[]", "[1]", "null", "7", '"text"', "{}", '{"id": 1}', '{"instruction": 7}',
        '{"instruction": null}', '{"instruction": ["greet"]}', '{"instruction": "greet"', '{"instruction"}',
        '{"instruction": "greet",}', "{'instruction': 'greet'}", '{"instruction": "greet"} x',
        '{"instruction": "greet"}{"instruction": "greet"}', '{"instruction": "greet", "id": 01}',
        '{"instruction": "greet", "id": +1}', '{"instruction": "greet", "id": NaN}',
        '{"instruction": "greet", "parameters": [1,]}', '{"instruction": "greet", "parameters": [}',
        '{"instruction": "\x01"}', '{"instruction": "\\x"}', '{"instruction": "greet", "id": "\\ud800"}',
        '{"instruction": "greet", "id": tru}', "\ufeff{}", "[" * 100000, '{"instruction":' * 50000,
        '{"instruction": "greet", "parameters": ' + "[" * 100000, '{"instruction": "greet", "id": ' + "[" * 100000,
    ],
    ids=lambda text: repr(text[:40]),
)
def test_a_malformed_request_is_answered_with_a_null_id(greeter, text):
    with greeter.connect() as client:
        client.send(text)
        reply = client.receive_json()
        assert reply["id"] is None
        assert reply["error"]["code"] == "malformed"
        assert client.request("greet", "you") == "hello you"


def test_deep_but_complete_json_does_no_harm(greeter):
    with greeter.connect() as client:
        for depth in [10, 100, 1000, 100000]:
            client.send('{"instruction": "types", "id": 1, "parameters": ' + "[" * depth + "]" * depth + "}")
            reply = client.receive_json()
            assert reply.get("result") == (["table"] if depth > 1 else []) or \
                reply["error"]["code"] in ("malformed", "bad_parameters", "script_error"), reply
        assert client.request("greet", "you") == "hello you"


def test_an_unknown_instruction_is_named_in_the_answer(greeter):
    with greeter.connect() as client:
        error = refusal(client, "no such instruction")
        assert error["code"] == "unknown_instruction"
        assert "no such instruction" in error["message"]


@pytest.mark.parametrize("field, values, code", [
    ("instruction", [7, None, True, [], {}], "malformed"), ("parameters", [7, "text", True, 1.5], "bad_parameters"),
    ("credential", [7, True, [], {}], "malformed"),
])
def test_a_member_of_the_wrong_type_is_answered_with_the_requests_id(greeter, field, values, code):
    with greeter.connect() as client:
        for value in values:
            client.send_json({"instruction": "greet", "id": "mine", field: value})
            reply = client.receive_json()
            assert (reply["id"], reply["error"]["code"]) == ("mine", code), value
            assert field in reply["error"]["message"]


def test_null_parameters_and_a_null_credential_are_as_good_as_none(greeter):
    with greeter.connect() as client:
        client.send_json({"instruction": "greet", "parameters": None, "credential": None, "id": 1})
        assert client.receive_json() == {"id": 1, "result": "hello nil"}


def test_an_array_is_passed_by_position(greeter):
    with greeter.connect() as client:
        values = [1, -1, 2.5, "text", True, False, [1, 2], {"a": 1}, "κόσμε", "", 12345678901234]
        assert client.request("types", *values) == [
            "integer", "integer", "float", "string", "boolean", "boolean", "table", "table", "string", "string",
            "integer"]
        assert client.request("echo parameters", *values) == values
        assert client.request("greet", "a \"quote\" \\ / \n \u0000 \u001f \U0001f98a") == \
            "hello a \"quote\" \\ / \n \u0000 \u001f \U0001f98a"


def test_an_object_is_passed_as_one_table(greeter):
    with greeter.connect() as client:
        assert client.request("named", named={"x": 1, "a": {"b": "deep"}}) == {"kind": "table", "x": 1, "deep": "deep"}
        assert client.request("named", named={}) == {"kind": "table"}
        assert client.request("named") == {"kind": "nil"}


def test_the_second_value_is_the_result_where_there_is_one(greeter):
    with greeter.connect() as client:
        assert client.request("both") == {"fact": True}
        assert client.request("greet", "you") == "hello you"
        assert client.request("nothing") is None


def test_an_error_of_a_script_says_where(greeter):
    with greeter.connect() as client:
        error = refusal(client, "raise")
        assert error["code"] == "script_error"
        assert "no such thing" in error["message"]
        assert error["data"]["line"] == 3
        assert error["data"]["instruction"] == "raise"
        assert error["data"]["file"]
        assert isinstance(error["data"]["generation"], int)
        assert "traceback" in error["data"]


def test_a_result_that_json_cannot_carry_is_a_script_error(greeter):
    with greeter.operator() as admin:
        for body in ["function() return function() end end", "function(conn) return conn end",
                     "function() local t = {} t.t = t return t end", "function() return 0/0 end",
                     "function() return {[{}] = 1} end"]:
            admin.request("add instruction", named={"instructionToAdd": "odd", "body": body})
            reply = admin.ask("odd")
            assert reply.get("error", {}).get("code") == "script_error" or "0/0" in body, (body, reply)
        admin.request("remove instruction", named={"instruction": "odd"})


# node-livecode's lines


@pytest.mark.parametrize("way", ["subprotocol", "listener"])
def test_livecode_lines_are_sent_to_those_who_asked(make_relay, way):
    if way == "listener":
        relay = make_relay(listen=["ws://127.0.0.1:0?livecode=1"])
        url, options = re.sub(r"\?.*", "", relay.url), {}
    else:
        relay = make_relay()
        url, options = relay.url, {"subprotocols": ["livecode.v0"]}
    with relay.connect(url=url, **options) as client:
        body = "function(conn, name) conn:send('sent') return 'greeted ' .. name end"
        client.send_json({"instruction": "add instruction", "credential": relay.admin,
                          "parameters": {"instructionToAdd": "greet", "body": body}})
        client.send_json({"instruction": "greet", "parameters": ["you"]})
        client.send_json({"instruction": "none"})
        client.send("not json")
        expected = [
            "server: received command 'add instruction'", "server: adding instruction 'greet'",
            "server: received command 'greet'", "server: evaluating added instruction 'greet'", "sent",
            "server: greeted you", "server: received command 'none'", "server: rejected command 'none'",
            "server: rejected malformed commandnot json",
        ]
        assert [client.receive() for _ in expected] == expected


def test_livecode_lines_are_not_sent_to_others(greeter):
    with greeter.connect() as client:
        client.send_json({"instruction": "greet", "parameters": ["you"]})
        assert client.messages() == []
