"""Adding, replacing and removing instructions, scripts and modules: every change is a transaction (DESIGN §6, §8)."""

import json
import threading

import pytest

from relay import BUILT_INS, refusal

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


# Several operators


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
