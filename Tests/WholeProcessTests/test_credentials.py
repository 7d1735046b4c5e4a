"""Credentials: who may do what, and what becomes of them (DESIGN §6, §9)."""

import pytest
from websockets.exceptions import InvalidStatus

from relay import BUILT_INS, Relay, refusal


def test_a_wrong_credential_is_unauthorized_and_never_falls_through(greeter):
    with greeter.connect() as client:
        for wrong in ["wrong", "", greeter.admin[:-1], greeter.admin + "0", greeter.admin.upper() + "x"]:
            for name in ["greet", "secret", "add instruction", "no such instruction"]:
                assert refusal(client, name, credential=wrong)["code"] == "unauthorized", (name, wrong)
    greeter.logs("unauthorized")
    assert greeter.admin not in greeter.log


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
    greeter.logs(str(file))


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


def test_a_credential_of_an_app_is_worth_nothing_elsewhere(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        admin.request("create app", named={"app": "blue"})
        secret = admin.request("create credential", named={"rights": ["admin"], "app": "blue"})["credential"]
        with relay.connect("/app/blue") as blue, relay.connect() as plain:
            assert blue.request("instructions", credential=secret) == []
            assert refusal(blue, "create app", credential=secret, named={"app": "red"})["code"] == "forbidden"
            assert refusal(plain, "instructions", credential=secret)["code"] == "unauthorized"
