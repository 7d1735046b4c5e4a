"""What the relay lists, closing connections by their id, and apps (DESIGN §6)."""

import pytest
from websockets.exceptions import InvalidStatus

from conditions import eventually
from relay import refusal

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
