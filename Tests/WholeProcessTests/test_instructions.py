"""Instruction messages, the relay's own instructions, scripts and their hooks (DESIGN §6, §8, §9)."""

import json
import re
import threading

import pytest
from websockets.exceptions import InvalidStatus

from conditions import eventually
from relay import TEST_SCRIPTS, Relay, ping_pong
from wire import TEXT, frame

BUILT_INS = [
    "add instruction", "remove instruction", "invoke", "eval", "load script", "unload script", "require", "modules",
    "instructions", "servers", "connections", "channels", "apps", "close connection", "create app", "remove app",
    "create credential", "revoke credential",
]


def refusal(client, *arguments, **options):
    """The error of a request that must fail."""
    reply = client.ask(*arguments, **options)
    assert "error" in reply, reply
    error = reply["error"]
    assert isinstance(error["message"], str) and error["message"]
    return error


@pytest.fixture(scope="module")
def greeter():
    """A relay with a few small instructions."""
    with Relay() as relay:
        relay.add("greet", "function(conn, name) return 'hello ' .. tostring(name) end")
        relay.add("send twice", "function(conn, text) conn:send(text) conn:send(text) return 'sent' end")
        relay.add("both", "function(conn) return 'a line', {fact = true} end")
        relay.add("secret", "function(conn) return 'secret' end", public=False)
        relay.add("types", "function(conn, ...) local r = {} for i = 1, select('#', ...) do "
                           "r[i] = math.type((select(i, ...))) or type((select(i, ...))) end return r end")
        relay.add("echo parameters", "function(conn, ...) return {...} end")
        relay.add("named", "function(conn, p) return {kind = type(p), x = p and p.x, deep = p and p.a and p.a.b} end")
        relay.add("nothing", "function(conn) end")
        relay.add("raise", "function(conn)\n\n  error('no such thing')\nend")
        yield relay


# Requests and replies


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


@pytest.mark.parametrize("field, values", [
    ("instruction", [7, None, True, [], {}]), ("parameters", [7, "text", True, 1.5]), ("credential", [7, True, [], {}]),
])
def test_a_member_of_the_wrong_type_is_answered_with_the_requests_id(greeter, field, values):
    with greeter.connect() as client:
        for value in values:
            client.send_json({"instruction": "greet", "id": "mine", field: value})
            reply = client.receive_json()
            assert (reply["id"], reply["error"]["code"]) == ("mine", "malformed"), value
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


# Credentials


def test_a_wrong_credential_is_unauthorized_and_never_falls_through(greeter):
    with greeter.connect() as client:
        for wrong in ["wrong", "", greeter.admin[:-1], greeter.admin + "0", greeter.admin.upper() + "x"]:
            for name in ["greet", "secret", "add instruction", "no such instruction"]:
                assert refusal(client, name, credential=wrong)["code"] == "unauthorized", (name, wrong)
    assert "unauthorized" in greeter.log and greeter.admin not in greeter.log


@pytest.mark.parametrize("name", BUILT_INS)
def test_without_a_credential_the_relays_own_instructions_are_forbidden(greeter, name):
    with greeter.connect() as client:
        assert refusal(client, name, named={})["code"] == "forbidden"


def test_an_instruction_that_is_not_public_needs_a_credential(greeter):
    with greeter.connect() as client:
        assert refusal(client, "secret")["code"] == "forbidden"
        assert client.request("secret", credential=greeter.admin) == "secret"
        assert refusal(client, "secret")["code"] == "forbidden"  # A message's credential is that message's.
    with greeter.operator() as admin:
        assert admin.request("secret") == "secret"


def test_the_admin_credential_is_a_file_for_its_owner_alone(greeter):
    file = greeter.state / "admin.credential"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(greeter.admin) >= 32
    assert str(file) in greeter.log


def test_the_admin_credential_outlives_a_restart():
    with Relay() as first:
        secret = first.admin
        first.stop()
        with Relay(state=first.state) as second:
            assert second.admin == secret
            assert second.listed("apps") == [{"app": "default", "loop": 0}]


def test_a_made_credential_has_its_rights_and_revoking_closes_what_it_opened(make_relay):
    relay = make_relay()
    relay.add("secret", "function(conn) return 'secret' end", public=False)
    relay.add("other", "function(conn) return 'other' end", public=False)
    with relay.operator() as admin, relay.connect() as bystander:
        made = admin.request("create credential", named={"rights": ["invoke:sec*"]})
        assert set(made) >= {"id", "credential"}
        secret = made["credential"]
        assert bystander.request("secret", credential=secret) == "secret"
        assert refusal(bystander, "other", credential=secret)["code"] == "forbidden"
        assert refusal(bystander, "instructions", credential=secret)["code"] == "forbidden"
        with relay.connect(additional_headers={"Authorization": f"Bearer {secret}"}) as holder:
            assert holder.request("secret") == "secret"
            assert refusal(holder, "other")["code"] == "forbidden"
            assert admin.request("revoke credential", named={"id": made["id"]}) == {"revoked": True}
            assert holder.closed()[0] == 4002
        assert refusal(bystander, "secret", credential=secret)["code"] == "unauthorized"
        with pytest.raises(InvalidStatus) as refused:
            relay.connect(additional_headers={"Authorization": f"Bearer {secret}"})
        assert refused.value.response.status_code == 401
        assert refusal(admin, "revoke credential", named={"id": "none"})["code"] == "not_found"
        assert refusal(admin, "create credential", named={"rights": ["fly"]})["code"] == "bad_parameters"
        assert refusal(admin, "create credential", named={})["code"] == "bad_parameters"
    assert secret not in relay.log


def test_a_credential_that_has_expired_is_refused(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        made = admin.request("create credential", named={"rights": ["admin"], "expires": 1})
        with relay.connect() as client:
            assert refusal(client, "apps", credential=made["credential"])["code"] == "unauthorized"


def test_the_last_admin_credential_cannot_be_revoked_by_accident(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        reply = admin.ask("revoke credential", named={"id": "admin"})
        assert "error" in reply


# Adding, replacing, removing


def test_adding_replacing_and_removing_count_versions_and_generations(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        def add(result, **options):
            body = f"function(conn) return {json.dumps(result)} end"
            return admin.request("add instruction", named={"instructionToAdd": "it", "body": body, **options})

        first = add("one")
        assert (first["instruction"], first["version"]) == ("it", 1)
        assert admin.request("it") == "one"
        second = add("two")
        assert (second["version"], second["generation"]) == (2, first["generation"] + 1)
        assert admin.request("it") == "two"
        removed = admin.request("remove instruction", named={"instruction": "it"})
        assert removed == {"generation": second["generation"] + 1}
        assert refusal(admin, "it")["code"] == "unknown_instruction"
        assert refusal(admin, "remove instruction", named={"instruction": "it"})["code"] == "not_found"
        again = add("three", public=False)
        assert (again["version"], again["generation"]) == (3, removed["generation"] + 1)
        (listed,) = admin.request("instructions")
        assert listed["instruction"] == "it" and listed["version"] == 3 and listed["public"] is False
        with relay.connect() as client:
            assert refusal(client, "it")["code"] == "forbidden"
            add("four")
            assert client.request("it") == "four"  # Public, unless said otherwise.


@pytest.mark.parametrize("name", BUILT_INS + ["history", "rollback"])
def test_a_name_of_the_relays_own_cannot_be_given_to_another(greeter, name):
    with greeter.operator() as admin:
        before = admin.request("instructions")
        body = "function(conn) return 'mine' end"
        error = refusal(admin, "add instruction", named={"instructionToAdd": name, "body": body})
        assert error["code"] in ("conflict", "forbidden")
        source = f"relay.instruction {{ {json.dumps(name)}, function() end }}"
        error = refusal(admin, "load script", named={"name": "thief.lua", "source": source})
        assert error["code"] in ("conflict", "forbidden")
        assert admin.request("instructions") == before


@pytest.mark.parametrize(
    "body, line",
    [
        ("function(conn)\n  return 1 +\nend", 3), ("function(conn)\n\n  x = = 1 end", 3), ("function(conn)", 1),
        ("", 1), ("not lua", 1), ("function(conn) end end", 1), ("function(conn) goto nowhere end", 1),
        ("function(conn) break end", 1), ("function(conn) local x <const> = 1; x = 2 end", 1),
        ("function(conn)\n'unfinished\nend", 2), ("function(conn) end return 1", 1), ("function(conn) end) (", 1),
    ],
    ids=repr,
)
def test_a_body_that_does_not_compile_is_refused_with_its_line(greeter, body, line):
    with greeter.operator() as admin:
        before = admin.request("instructions")
        error = refusal(admin, "add instruction", named={"instructionToAdd": "greet", "body": body})
        assert error["code"] == "compile_error"
        assert error["data"]["line"] == line, error
        assert "greet" in error["data"]["file"]
        assert admin.request("instructions") == before
        assert admin.request("greet", "you") == "hello you"


@pytest.mark.parametrize("body", ["7", "'text'", "{}", "nil", "print"])
def test_a_body_that_is_no_function_is_refused(greeter, body):
    with greeter.operator() as admin:
        reply = admin.ask("add instruction", named={"instructionToAdd": "greet", "body": body})
        if body == "print":  # A function all the same, though not one of the script's own.
            if "result" in reply:
                greeter.add("greet", "function(conn, name) return 'hello ' .. tostring(name) end")
            return
        assert reply["error"]["code"] in ("compile_error", "script_error", "bad_parameters")
        assert admin.request("greet", "you") == "hello you"


def test_parameters_of_the_relays_own_instructions_are_checked(greeter):
    with greeter.operator() as admin:
        for name, named in [
            ("add instruction", {}), ("add instruction", {"instructionToAdd": "x"}),
            ("add instruction", {"instructionToAdd": 7, "body": "function() end"}),
            ("add instruction", {"instructionToAdd": "x", "body": 7}),
            ("add instruction", {"instructionToAdd": "x", "body": "function() end", "public": "yes"}),
            ("add instruction", {"instructionToAdd": "", "body": "function() end"}),
            ("add instruction", {"instructionToAdd": "a\nb", "body": "function() end"}),
            ("add instruction", {"instructionToAdd": "x" * 10000, "body": "function() end"}),
            ("remove instruction", {}), ("eval", {}), ("eval", {"body": 7}), ("load script", {"name": "x"}),
            ("load script", {"name": 1, "source": ""}), ("unload script", {}), ("require", {"module": "x"}),
            ("close connection", {}), ("close connection", {"connection": "first"}),
            ("close connection", {"connection": -1}), ("close connection", {"connection": 1, "code": 1005}),
            ("close connection", {"connection": 1, "code": 70000}),
            ("close connection", {"connection": 1, "reason": "x" * 124}), ("create app", {}),
            ("create app", {"app": "a/b"}), ("create app", {"app": ""}), ("create app", {"app": "a" * 65}),
            ("remove app", {}), ("revoke credential", {}), ("invoke", {}), ("invoke", {"instruction": 7}),
        ]:
            error = refusal(admin, name, named=named)
            assert error["code"] == "bad_parameters", (name, named, error)
        error = refusal(admin, "add instruction", "x", "function() end")
        assert error["code"] == "bad_parameters"


def test_invoke_also_runs_what_is_not_public(greeter):
    with greeter.operator() as admin:
        assert admin.request("invoke", named={"instruction": "secret"}) == "secret"
        assert admin.request("invoke", named={"instruction": "greet", "parameters": ["you"]}) == "hello you"
        assert admin.request("invoke", named={"instruction": "named", "parameters": {"x": 5}})["x"] == 5
        assert refusal(admin, "invoke", named={"instruction": "none"})["code"] == "unknown_instruction"
        assert refusal(admin, "invoke", named={"instruction": "raise"})["code"] == "script_error"


def test_eval_runs_a_chunk_in_the_apps_state(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        def evaluate(body):
            return admin.request("eval", named={"body": body})

        assert evaluate("return 1 + 1") == 2
        assert evaluate("x = {1, 2, {y = 'z'}}") is None
        assert evaluate("return x") == [1, 2, {"y": "z"}]
        relay.add("x", "function() return x[2] end")
        assert admin.request("x") == 2
        error = refusal(admin, "eval", named={"body": "\nreturn +"})
        assert (error["code"], error["data"]["line"]) == ("compile_error", 2)
        error = refusal(admin, "eval", named={"body": "\n\nerror('no')"})
        assert (error["code"], error["data"]["line"]) == ("script_error", 3)
        assert evaluate("return 'after'") == "after"


def test_limits_of_instructions_hold(make_relay):
    relay = make_relay(limits={"instructions": 3, "instructionBytes": 200})
    with relay.operator() as admin:
        for name in ["a", "b", "c"]:
            admin.request("add instruction", named={"instructionToAdd": name, "body": "function() return 1 end"})
        error = refusal(admin, "add instruction", named={"instructionToAdd": "d", "body": "function() end"})
        assert error["code"] == "limit" and "instructions" in error["message"]
        admin.request("add instruction", named={"instructionToAdd": "c", "body": "function() return 2 end"})
        body = "function() return '" + "x" * 200 + "' end"
        error = refusal(admin, "add instruction", named={"instructionToAdd": "c", "body": body})
        assert error["code"] == "limit" and "instructionBytes" in error["message"]
        assert admin.request("c") == 2


# Scripts

GOOD = """
relay.instruction { "one", summary = "The first.", function(conn) return "one" end }
relay.instruction { "two", public = false, function(conn) return "two" end }
"""


def test_a_script_is_loaded_as_one_unit_and_replaced_as_one(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        loaded = admin.request("load script", named={"name": "unit.lua", "source": GOOD})
        assert sorted(loaded["instructions"]) == ["one", "two"]
        listed = {entry["instruction"]: entry for entry in admin.request("instructions")}
        assert listed["one"]["summary"] == "The first." and listed["one"]["script"] == "unit.lua"
        assert listed["two"]["public"] is False
        again = admin.request(
            "load script",
            named={"name": "unit.lua", "source": "relay.instruction { 'three', function() return 3 end }"})
        assert again == {"generation": loaded["generation"] + 1, "instructions": ["three"]}
        assert admin.request("three") == 3
        assert refusal(admin, "one")["code"] == "unknown_instruction"
        assert admin.request("unload script", named={"name": "unit.lua"}) == {"generation": again["generation"] + 1}
        assert admin.request("instructions") == []
        assert refusal(admin, "unload script", named={"name": "unit.lua"})["code"] == "not_found"


def test_a_dry_run_changes_nothing(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        before = admin.request("load script", named={"name": "unit.lua", "source": GOOD})["generation"]
        dry = admin.request(
            "load script",
            named={"name": "unit.lua", "source": "leak = 1 relay.instruction { 'three', function() end }",
                   "dryRun": True})
        assert dry == {"generation": before, "instructions": ["three"]}
        assert admin.request("one") == "one"
        assert refusal(admin, "three")["code"] == "unknown_instruction"
        assert admin.request("eval", named={"body": "return leak"}) is None
        error = refusal(admin, "load script", named={"name": "x", "source": "x x", "dryRun": True})
        assert error["code"] == "compile_error"


def test_a_change_for_another_generation_is_a_conflict(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        generation = admin.request("load script", named={"name": "unit.lua", "source": GOOD})["generation"]
        named = {"name": "unit.lua", "source": GOOD, "ifGeneration": generation - 1}
        assert refusal(admin, "load script", named=named)["code"] == "conflict"
        named["ifGeneration"] = generation
        assert admin.request("load script", named=named)["generation"] == generation + 1


def test_an_instruction_of_another_script_is_not_taken_over(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        admin.request("load script", named={"name": "a.lua", "source": GOOD})
        error = refusal(admin, "load script", named={"name": "b.lua", "source": GOOD})
        assert error["code"] == "conflict" and "a.lua" in error["message"]


@pytest.mark.parametrize(
    "source, code, line",
    [
        ("relay.instruction { 'one', function() return 'bad' end }\n\nx = = 1", "compile_error", 3),
        ("relay.instruction { 'one', function() return 'bad' end }\n\nerror('stop')", "script_error", 3),
        ("relay.instruction { 'one', function() return 'bad' end }\nnil_value.x = 1", "script_error", 2),
        ("relay.instruction { 'one', function() return 'bad' end }\nwhile true do end", "budget_exceeded", 2),
        ("local t = {}\nfor i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end", None, None),
        ("relay.on('reload', function()\n  error('cannot migrate')\nend)\nrelay.instruction { 'one', function() end }",
         "script_error", 2),
        ("relay.instruction { 'one' }", None, None),
        ("relay.instruction { 7, function() end }", None, None),
        ("relay.on('no such hook', function() end)", None, None),
        ("relay.on('open', 7)", None, None),
        ("\x1bLua", None, None),
        ("relay.sleep(1)", None, None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_script_that_fails_to_load_leaves_the_old_one_serving(make_relay, source, code, line):
    relay = make_relay()
    with relay.operator() as admin:
        generation = admin.request("load script", named={"name": "unit.lua", "source": GOOD})["generation"]
        source = "leak = 'leaked'; " + source if not source.startswith("\x1b") else source
        error = refusal(admin, "load script", named={"name": "unit.lua", "source": source})
        if code:
            assert error["code"] == code, error
            assert (error["data"]["file"], error["data"]["line"]) == ("unit.lua", line)
            assert f"unit.lua:{line}" in error["message"]
        else:
            assert error["code"] in (
                "compile_error", "script_error", "bad_parameters", "memory_exceeded", "budget_exceeded"), error
        assert admin.request("one") == "one"
        assert {entry["generation"] for entry in admin.request("instructions")} == {generation}
        assert admin.request("eval", named={"body": "return leak"}) is None


def test_globals_persist_across_reloads_and_reload_hooks_migrate(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        def load(source):
            return admin.request("load script", named={"name": "state.lua", "source": source})

        load("count = count or 0 "
             "relay.instruction { 'count', function() count = count + 1 return count end }")
        assert [admin.request("count"), admin.request("count")] == [1, 2]
        load("relay.on('reload', function(previous) count = { old = count, previous = previous } end) "
             "relay.instruction { 'count', function() return count end }")
        assert admin.request("count") == {"old": 2, "previous": 1}


def test_modules_are_required_by_scripts(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        use = {"instructionToAdd": "use", "body": "function(conn) return require('greeting').text end"}
        admin.request("add instruction", named=use)
        assert refusal(admin, "use")["code"] == "script_error"
        made = admin.request("require", named={"module": "greeting", "source": "return { text = 'hello' }"})
        assert made == {"module": "greeting", "version": 1}
        assert admin.request("use") == "hello"
        made = admin.request("require", named={"module": "greeting", "source": "return { text = 'hi' }"})
        assert made["version"] == 2
        assert admin.request("use") == "hi"
        assert admin.request("modules") == [{"module": "greeting", "version": 2}]
        error = refusal(admin, "require", named={"module": "greeting", "source": "\nerror('no')"})
        assert (error["code"], error["data"]["line"]) == ("script_error", 2)
        assert admin.request("use") == "hi"


# Lists


def test_connections_are_listed_with_their_facts_and_closed_by_id(make_relay):
    relay = make_relay()
    with relay.operator() as admin, relay.connect("/?x=1") as client:
        client.messages()
        listed = admin.request("connections")
        assert len(listed) == 2 and len({entry["connection"] for entry in listed}) == 2
        (other,) = [entry for entry in listed if not entry["admin"]]
        assert other["remoteAddress"] == "127.0.0.1"
        assert other["remotePort"] == client.connection.local_address[1]
        assert other["path"] == "/"
        assert admin.request("close connection", named={"connection": other["connection"]}) == {"closed": True}
        code, reason = client.closed()
        assert code == 4007 and reason
        client.close()
        eventually(lambda: len(admin.request("connections")) == 1, "it is gone from the list")
        named = {"connection": other["connection"]}
        assert refusal(admin, "close connection", named=named)["code"] == "not_found"


def test_close_connection_takes_code_and_reason(make_relay):
    relay = make_relay()
    with relay.operator() as admin, relay.connect() as client:
        client.messages()
        (other,) = [entry for entry in admin.request("connections") if not entry["admin"]]
        named = {"connection": other["connection"], "code": 4242, "reason": "grüße"}
        admin.request("close connection", named=named)
        assert client.closed() == (4242, "grüße")


def test_lists_of_an_empty_relay_are_empty(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        assert [admin.request(kind) for kind in ["modules", "instructions", "servers", "channels"]] == [[]] * 4
        assert [entry["app"] for entry in admin.request("apps")] == ["default"]


# Apps


@pytest.mark.parametrize("loops", [1, 2])
def test_apps_are_made_kept_apart_and_removed(make_relay, loops):
    relay = make_relay(loops=loops)
    with relay.operator() as admin:
        assert admin.request("create app", named={"app": "blue"}) == {"app": "blue"}
        assert admin.request("create app", named={"app": "red"}) == {"app": "red"}
        assert refusal(admin, "create app", named={"app": "blue"})["code"] == "conflict"
        assert sorted(entry["app"] for entry in admin.request("apps")) == ["blue", "default", "red"]
        for app in ["blue", "red"]:
            relay.add("mine", f"function(conn) count = (count or 0) + 1 return {{'{app}', conn.app, count}} end",
                      path=f"/app/{app}")
        with relay.connect("/app/blue") as blue, relay.connect("/app/red") as red, relay.connect() as plain:
            assert blue.request("mine") == ["blue", "blue", 1]
            assert blue.request("mine") == ["blue", "blue", 2]
            assert red.request("mine") == ["red", "red", 1]
            assert refusal(plain, "mine")["code"] == "unknown_instruction"
            assert admin.request("remove app", named={"app": "blue"}) == {"app": "blue"}
            assert blue.closed()[0] == 1001
            assert red.request("mine") == ["red", "red", 2]
            assert refusal(plain, "mine")["code"] == "unknown_instruction"
        with pytest.raises(InvalidStatus) as refused:
            relay.connect("/app/blue")
        assert refused.value.response.status_code == 404
        assert refusal(admin, "remove app", named={"app": "blue"})["code"] == "not_found"
        assert refusal(admin, "remove app", named={"app": "default"})["code"] == "forbidden"
        # The name can be taken again, and nothing of the old app is in the new one.
        admin.request("create app", named={"app": "blue"})
        with relay.connect("/app/blue") as blue:
            assert refusal(blue, "mine")["code"] == "unknown_instruction"


def test_a_credential_of_an_app_is_worth_nothing_elsewhere(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        admin.request("create app", named={"app": "blue"})
        secret = admin.request("create credential", named={"rights": ["admin"], "app": "blue"})["credential"]
        with relay.connect("/app/blue") as blue, relay.connect() as plain:
            assert blue.request("instructions", credential=secret) == []
            assert refusal(blue, "create app", credential=secret, named={"app": "red"})["code"] == "forbidden"
            assert refusal(plain, "instructions", credential=secret)["code"] == "unauthorized"


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


# Hooks

HOOKS = """
log = log or {}
local function note(text) log[#log + 1] = text end  -- What becomes of connections that give a query.
relay.on("handshake", function(request)
  if request.query == "refuse" then return false end
  if request.query == "teapot" then return false, 418, "short and stout" end
  if request.query == "raise" then error("no") end
  if request.query == "wait" then relay.sleep(0.05) note("waited") end
  if request.query == "waitrefuse" then relay.sleep(0.05) return false, 429, "too many" end
end)
relay.on("open", function(conn, request)
  conn.data.query = request.query
  if request.query == "welcome" then conn:send("welcome " .. request.path) end
end)
relay.on("message", function(conn, data, kind)
  if data == "stop" then conn:send("stopped") return true end
  conn:send("first " .. kind .. " " .. #data)
end)
relay.on("message", function(conn, data, kind) conn:send("second") end)
relay.on("close", function(conn, code, reason)
  if conn.query ~= "" then note("closed " .. tostring(conn.data.query) .. " " .. code .. " " .. reason .. " " .. tostring(conn:isOpen())
    .. " " .. conn:send("late")) end
end)
relay.instruction { "log", function() return log end }
"""


def test_handshake_hooks_decide_who_is_let_in(make_relay):
    relay = make_relay()
    relay.load("hooks.lua", HOOKS)
    for query, status, text in [
        ("refuse", 403, ""), ("teapot", 418, "short and stout"), ("raise", 500, ""), ("waitrefuse", 429, "too many"),
    ]:
        with pytest.raises(InvalidStatus) as refused:
            relay.connect(f"/?{query}")
        response = refused.value.response
        assert response.status_code == status
        assert text in (response.body or b"").decode()
    with relay.connect("/?wait") as client:
        assert client.request("log") == ["waited"]


def test_open_message_and_close_hooks_see_the_whole_life_of_a_connection(make_relay):
    relay = make_relay()
    relay.load("hooks.lua", HOOKS)
    with relay.connect() as observer:
        with relay.connect("/?welcome") as client:
            assert client.receive() == "welcome /"
            client.send("hello")
            assert [client.receive(), client.receive()] == ["first text 5", "second"]
            client.send(b"\x00\xff")
            assert [client.receive(), client.receive()] == ["first binary 2", "second"]
            client.send("stop")
            assert client.receive() == "stopped"
            assert client.request("log") == {}  # An empty table is an object.
            client.connection.close(4321, "tschüs")
        eventually(lambda: observer.request("log") == ["closed welcome 4321 tschüs false dropped"], "the hook has run")
        client = relay.raw(upgraded=True, path="/?gone")
        client.reset()
        eventually(lambda: len(observer.request("log")) == 2, "the hook of the reset connection has run")
        assert observer.request("log")[1].startswith("closed gone 1006 ")


def test_hooks_of_several_scripts_run_in_the_order_of_their_first_load(make_relay):
    relay = make_relay()
    source = "relay.on('message', function(conn, data) conn:send('%s') end)"
    for name in ["c", "a", "b"]:
        relay.load(f"{name}.lua", source % name)
    relay.load("c.lua", source % "c again")
    with relay.connect() as client:
        client.send("go")
        assert [client.receive() for _ in range(3)] == ["c again", "a", "b"]


def test_installing_servers_emits_events_and_fills_the_registry(make_relay):
    relay = make_relay()
    relay.load("registry.lua", """
      events = events or {}
      relay.on("event:server.created", function(data) events[#events + 1] = "created " .. tostring(data.server) end)
      relay.on("event:server.destroyed", function(data) events[#events + 1] = "destroyed " .. tostring(data.server) end)
      relay.instruction { "install", function(conn, id, replace)
        return relay.install(id, conn, { replace = replace }) and true or false end }
      relay.instruction { "uninstall", function(conn, id) return relay.uninstall(id) and true or false end }
      relay.instruction { "holds", function(conn, id) return relay.server(id) == conn end }
      relay.instruction { "events", function() return events end }
    """)
    with relay.operator() as admin, relay.connect() as server:
        assert server.request("install", "box") is True
        assert server.request("install", 0) is True
        assert server.request("holds", "box") is True and admin.request("holds", "box") is False
        assert sorted(str(entry["server"]) for entry in admin.request("servers")) == ["0", "box"]
        with relay.connect() as newer:
            reply = newer.ask("install", "box")
            assert reply.get("result") is False or reply["error"]["code"] in ("script_error", "conflict"), reply
            assert newer.request("install", "box", True) is True
            assert server.closed()[0] == 4005
            assert newer.request("holds", "box") is True
            assert newer.request("uninstall", "box") is True
            assert newer.request("uninstall", "box") is False
            assert newer.request("install", "last") is True
        eventually(lambda: admin.request("servers") == [], "nothing is installed")
        events = admin.request("events")
        assert events[:2] == ["created box", "created 0"]
        assert events.count("created box") == 2 and events.count("destroyed box") == 2
        assert "destroyed 0" in events and events[-1] == "destroyed last"


def test_timers_and_sleep_do_not_hold_anybody_up(make_relay):
    relay = make_relay(scripts=[TEST_SCRIPTS / "echo.lua"])
    relay.add("sleep", "function(conn, s) relay.sleep(s) return 'slept' end")
    relay.add("later", "function(conn) relay.after(0.02, function() conn:send('later') end) return 'now' end")
    relay.add("ticks", """function(conn)
      local n = 0
      relay.every(0.01, function() n = n + 1 if n <= 3 then conn:send('tick ' .. n) end end)
    end""")
    with relay.connect() as client:
        client.send_json({"instruction": "sleep", "parameters": [0.3], "id": "slow"})
        client.send_json({"instruction": "sleep", "parameters": [0.01], "id": "fast"})
        ping_pong(client, 3)
        assert client.receive_json() == {"id": "fast", "result": "slept"}
        assert client.receive_json() == {"id": "slow", "result": "slept"}
        assert client.request("later") == "now"
        assert client.receive() == "later"
        client.send_json({"instruction": "ticks"})
        assert [client.receive() for _ in range(3)] == ["tick 1", "tick 2", "tick 3"]


def test_a_call_in_flight_finishes_on_the_generation_that_it_started_with(make_relay):
    relay = make_relay()
    relay.add("wait", "function(conn) while not go do relay.sleep(0.01) end return 'old' end")
    with relay.connect() as client:
        client.send_json({"instruction": "wait", "id": 1})
        client.messages()
        relay.add("wait", "function(conn) return 'new' end")
        assert client.request("wait") == "new"
        relay.evaluate("go = true")
        assert client.receive_json() == {"id": 1, "result": "old"}


def test_a_connection_that_goes_while_its_call_sleeps_does_no_harm(make_relay):
    relay = make_relay()
    relay.add("sleep", "function(conn) relay.sleep(0.05) finished = (finished or 0) + 1 return conn:send('x') end")
    for number in range(20):
        with relay.raw(upgraded=True) as raw:
            raw.send(frame(TEXT, '{"instruction": "sleep", "id": 1}'))
            raw.reset() if number % 2 else raw.socket.close()
    assert relay.evaluate("return 'alive'") == "alive"


def test_tokens_digests_and_facts_are_what_they_say(make_relay):
    relay = make_relay(scripts=[TEST_SCRIPTS / "hooks.lua"])
    assert relay.evaluate("return relay.sha256('abc')") == \
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    # RFC 4231, test case 2.
    assert relay.evaluate("return relay.hmac('Jefe', 'what do ya want for nothing?')") == \
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert relay.evaluate("return {relay.equal('a', 'a'), relay.equal('a', 'b'), relay.equal('a', 'ab')}") == \
        [True, False, False]
    tokens = relay.evaluate("local t = {} for i = 1, 100 do t[i] = relay.randomToken(16) end return t")
    assert len(set(tokens)) == 100 and all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)
    with relay.connect("/?a=b%20c", user_agent_header="tester/1", subprotocols=["livecode.v0"]) as client:
        client.send_json({"instruction": "facts", "id": 1})
        client.connection.recv()  # Two livecode lines come before the answer, and one after.
        facts = client.reply(1)["result"]
        assert facts["app"] == "default" and facts["path"] == "/" and facts["query"] == "a=b%20c"
        assert facts["port"] == relay.port and facts["isAdmin"] is False and facts["agent"] == "tester/1"
        assert facts["subprotocol"] == "livecode.v0" and facts.get("tls") is None
        assert facts["remoteAddress"] == "127.0.0.1"


def test_two_operators_who_change_at_once_lose_nothing(make_relay):
    relay = make_relay()
    failures = []

    def operate(name):
        try:
            with relay.operator() as admin:
                for number in range(100):
                    body = f"function() return {number} end"
                    made = admin.request("add instruction", named={"instructionToAdd": name, "body": body})
                    assert made["version"] == number + 1
                    assert admin.request(name) == number
        except BaseException as failure:  # Whatever it is, the test has to hear of it.
            failures.append(failure)

    threads = [threading.Thread(target=operate, args=(name,)) for name in ["a", "b", "c"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(entry["version"] for entry in relay.listed("instructions")) == [100] * 3
