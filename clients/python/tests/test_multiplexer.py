"""The state machines of channels: events in, frames out."""

import random

import pytest

from relayd_client import frames
from relayd_client.errors import ChannelClosed, ProtocolError
from relayd_client.flow import MAXIMUM_WAITING_MESSAGES, Phase, Piece
from relayd_client.multiplexer import Begun, Changed, Multiplexer
from relayd_client.turns import FRESH_TURNS_IN_ROW, LEAST_FRAME_BYTES, MOST_FRAME_BYTES, PATIENCE


def open_of(number):
    return b"\x10" + number.to_bytes(4, "big") + b'{"server":"box","port":22,"credit":10}'


def sent(multiplexer):
    """Everything that is to be sent by now."""
    messages = []
    while (step := multiplexer.next_frame()) is not None:
        messages.append(step[0])
    return messages


def client(window=1000, credit=100):
    """A channel that we have opened, and the multiplexer that it belongs to."""
    multiplexer = Multiplexer(window)
    flow = multiplexer.open("box", 22)
    assert len(sent(multiplexer)) == 1
    assert multiplexer.received(frames.accept(flow.number, credit)) == Changed(flow)
    return multiplexer, flow


# Opening

def test_a_client_opens_is_accepted_and_both_end():
    multiplexer = Multiplexer(1000)
    flow = multiplexer.open("box", 22)
    assert flow.phase is Phase.OPENING
    assert sent(multiplexer) == [frames.open_(1, "box", 22, 1000)]
    multiplexer.received(frames.accept(1, 50))
    assert (flow.phase, flow.credit, flow.was_accepted) == (Phase.OPEN, 50, True)
    flow.end()
    multiplexer.received(frames.end(1))
    assert (flow.phase, flow.closed) == (Phase.OVER, (1000, ""))
    assert sent(multiplexer) == [frames.end(1)], "no close follows"
    assert multiplexer.flows == {}


def test_a_client_is_rejected():
    multiplexer = Multiplexer()
    flow = multiplexer.open("box", 22)
    multiplexer.received(frames.reject(1, 502, "no such server"))
    assert (flow.phase, flow.closed, flow.was_rejected) == (Phase.OVER, (502, "no such server"), True)


def test_the_relay_may_close_instead_of_an_answer():
    multiplexer = Multiplexer()
    flow = multiplexer.open("box", 22)
    multiplexer.received(frames.close(1, 1012, ""))
    assert (flow.closed, flow.was_accepted, flow.was_rejected) == ((1012, ""), False, False)


def test_a_server_accepts():
    multiplexer = Multiplexer(1000)
    begun = multiplexer.received(open_of(2))
    assert isinstance(begun, Begun) and begun.flow.phase is Phase.OFFERED and begun.open.port == 22
    assert begun.flow.credit == 10
    begun.flow.accept()
    begun.flow.accept()
    assert sent(multiplexer) == [frames.accept(2, 1000)]
    with pytest.raises(RuntimeError):
        begun.flow.reject(403, "")


def test_a_server_rejects():
    multiplexer = Multiplexer()
    flow = multiplexer.received(open_of(2)).flow
    flow.reject(403, "no")
    assert sent(multiplexer) == [frames.reject(2, 403, "no")]
    assert flow.phase is Phase.OVER and not multiplexer.flows


def test_an_open_that_was_taken_back_needs_no_answer():
    multiplexer = Multiplexer()
    flow = multiplexer.received(open_of(2)).flow
    multiplexer.received(frames.close(2, 504, ""))
    flow.reject(403, "no")
    flow.accept()
    assert sent(multiplexer) == []


def test_a_script_begins_a_channel():
    multiplexer = Multiplexer()
    accepted = multiplexer.received(frames.accept(2, 7))
    assert accepted.open is None and accepted.flow.phase is Phase.OPEN and accepted.flow.credit == 7
    rejected = multiplexer.received(frames.reject(4, 502, "gone"))
    assert rejected.flow.was_rejected and rejected.flow.closed == (502, "gone")
    assert list(multiplexer.flows) == [2]


def test_the_relay_begins_channels_in_any_order():
    multiplexer = Multiplexer()
    for number in (10, 2, 6):
        assert multiplexer.received(frames.accept(number, 7)).flow.phase is Phase.OPEN
    for number in (8, 4):
        assert multiplexer.received(open_of(number)).flow.phase is Phase.OFFERED
    assert list(multiplexer.flows) == [10, 2, 6, 8, 4]


@pytest.mark.parametrize("number", [1, 3, 2, 4])
def test_a_number_that_is_not_the_relays_to_open_ends_the_connection(number):
    multiplexer = Multiplexer()
    multiplexer.received(open_of(4))
    multiplexer.received(frames.accept(2, 7))
    with pytest.raises(ProtocolError):
        multiplexer.received(open_of(number))


# Rules of a channel

@pytest.mark.parametrize("messages, code", [
    ([frames.accept(1, 1)], 1002),
    ([frames.reject(1, 502, "")], 1002),
    ([frames.end(1), frames.data(1, False, False, b"a")], 1002),
    ([frames.end(1), frames.end(1)], 1002),
    ([frames.data(1, False, True, b"a"), frames.data(1, True, False, b"a")], 1002),
    ([frames.data(1, True, True, b""), frames.data(1, False, False, b"")], 1002),
    ([frames.data(1, True, True, b"a"), frames.end(1)], 1002),
    ([frames.data(1, False, False, b"a" * 1001)], 4006),
    ([frames.data(1, False, True, b"a" * 600), frames.data(1, False, True, b"a" * 401)], 4006),
])
def test_a_broken_rule_closes_the_channel_alone(messages, code):
    multiplexer, flow = client()
    other = multiplexer.open("box", 23)
    sent(multiplexer)
    for message in messages:
        multiplexer.received(message)
    assert flow.closed[0] == code and other.phase is Phase.OPENING
    assert sent(multiplexer) == [frames.close(1, *flow.closed)]
    assert multiplexer.received(messages[-1]) is None, "what still comes is ignored"
    assert sent(multiplexer) == []


@pytest.mark.parametrize("message", [frames.data(1, False, False, b"a"), frames.credit(1, 1), frames.end(1)])
def test_nothing_comes_before_the_acceptance(message):
    multiplexer = Multiplexer()
    flow = multiplexer.open("box", 22)
    multiplexer.received(message)
    assert flow.closed[0] == 1002


@pytest.mark.parametrize("message", [frames.data(7, False, False, b""), frames.credit(8, 1), frames.end(7)])
def test_a_channel_that_never_was_is_closed(message):
    multiplexer, _ = client()
    assert multiplexer.received(message) is None
    number = int.from_bytes(message[1:5], "big")
    assert sent(multiplexer) == [frames.close(number, 1002, "no such channel")]


@pytest.mark.parametrize("message", [frames.close(7, 1000, ""), frames.reject(7, 502, ""), frames.close(8, 1000, "")])
def test_the_close_of_a_channel_that_never_was_has_no_answer(message):
    multiplexer, _ = client()
    assert multiplexer.received(message) is None
    assert sent(multiplexer) == []


def test_messages_that_use_no_credit_have_a_limit_too():
    multiplexer, flow = client()
    for _ in range(MAXIMUM_WAITING_MESSAGES):
        multiplexer.received(frames.data(1, False, False, b""))
    assert flow.closed is None
    multiplexer.received(frames.data(1, False, False, b""))
    assert flow.closed[0] == 4006


def test_empty_pieces_of_a_message_take_no_place():
    multiplexer, flow = client()
    for _ in range(MAXIMUM_WAITING_MESSAGES + 1):
        multiplexer.received(frames.data(1, False, True, b""))
    assert flow.closed is None and not flow.has_waiting


# Credit

def test_half_of_the_window_is_granted_again_when_it_has_been_taken():
    multiplexer, flow = client(window=1000)
    for _ in range(5):
        multiplexer.received(frames.data(1, False, False, b"a" * 199))
    flow.take()
    flow.take()
    assert sent(multiplexer) == []
    flow.take()
    assert sent(multiplexer) == [frames.credit(1, 597)]
    assert flow.window == 1000 - 5 * 199 + 597


def test_nothing_is_granted_to_who_has_ended_or_is_gone():
    for message in (frames.end(1), frames.close(1, 1000, "")):
        multiplexer, flow = client(window=1000)
        multiplexer.received(frames.data(1, False, False, b"a" * 1000))
        multiplexer.received(message)
        assert flow.take() == Piece(False, b"a" * 1000, False), "what was sent before is still delivered"
        assert sent(multiplexer) == []


def test_data_waits_for_credit():
    multiplexer, flow = client(credit=3)
    flow.offer(False, b"abcdefgh", False)
    assert sent(multiplexer) == [frames.data(1, False, True, b"abc")]
    assert not flow.can_offer and flow.is_within_message
    multiplexer.received(frames.credit(1, 4))
    assert sent(multiplexer) == [frames.data(1, False, True, b"defg")]
    multiplexer.received(frames.credit(1, 4))
    assert sent(multiplexer) == [frames.data(1, False, False, b"h")]
    assert flow.can_offer and flow.credit == 3 and not flow.is_within_message


def test_an_empty_message_needs_no_credit():
    multiplexer, flow = client(credit=0)
    flow.offer(True, b"", False)
    assert sent(multiplexer) == [frames.data(1, True, False, b"")]


def test_what_was_withdrawn_is_not_sent():
    multiplexer, flow = client(credit=0)
    flow.offer(True, b"a", False)
    flow.withdraw()
    multiplexer.received(frames.credit(1, 1))
    assert sent(multiplexer) == [] and flow.can_offer and not flow.is_within_message


def test_a_close_drops_what_waits_to_be_sent():
    multiplexer, flow = client(credit=100)
    flow.offer(True, b"a", False)
    flow.close(1000, "bye")
    assert sent(multiplexer) == [frames.close(1, 1000, "bye")]
    with pytest.raises(ChannelClosed):
        flow.offer(True, b"a", False)


def test_nothing_is_sent_after_the_end():
    multiplexer, flow = client()
    flow.end()
    flow.end()
    assert sent(multiplexer) == [frames.end(1)]
    with pytest.raises(RuntimeError):
        flow.offer(True, b"a", False)
    multiplexer.received(frames.data(1, True, False, b"a"))
    assert flow.take().payload == b"a", "the other side may go on"


def test_the_end_of_the_connection_is_the_end_of_every_channel():
    multiplexer, flow = client()
    other = multiplexer.open("box", 1)
    multiplexer.broken(1006, "gone")
    assert flow.closed == other.closed == (1006, "gone") and not multiplexer.flows


# Turns

def sending(count, size):
    """A multiplexer, and so many channels that have so much to send."""
    multiplexer = Multiplexer()
    flows = [multiplexer.open("box", port) for port in range(count)]
    sent(multiplexer)
    for flow in flows:
        multiplexer.received(frames.accept(flow.number, 1 << 30))
        flow.offer(False, bytes(size), False)
    return multiplexer, flows


def turns(multiplexer, count):
    return [multiplexer.next_frame()[1] for _ in range(count)]


def test_channels_take_turns_and_control_goes_first():
    multiplexer, (one, two, three) = sending(3, 3 * LEAST_FRAME_BYTES)
    assert turns(multiplexer, 4) == [one, two, three, one]
    two.close(1000, "")
    assert turns(multiplexer, 4) == [None, three, one, three]
    assert multiplexer.next_frame() is None


def test_a_small_message_does_not_wait_for_the_bulk_of_others():
    multiplexer, bulk = sending(20, 1 << 20)
    turns(multiplexer, 27)
    small = multiplexer.open("box", 20)
    multiplexer.received(frames.accept(small.number, 100))
    for _ in range(5):
        small.offer(True, b"now", False)
        assert small in turns(multiplexer, 2), "after the frame of control, at once"


def test_small_messages_without_end_leave_turns_for_bulk():
    multiplexer, (bulk, small) = sending(2, 1 << 20)
    small.withdraw()
    turns(multiplexer, 1)
    order = []
    for _ in range(40):
        if small.can_offer:
            small.offer(True, b"more", False)
        order += turns(multiplexer, 1)
    assert order.count(bulk) == 40 // (FRESH_TURNS_IN_ROW + 1)


def test_credit_does_not_make_a_message_new():
    multiplexer, (bulk, other) = sending(2, 1 << 20)
    turns(multiplexer, 2)
    bulk.credit = 0
    turns(multiplexer, 2)
    multiplexer.received(frames.credit(bulk.number, 1 << 20))
    assert turns(multiplexer, 4) == [other, bulk, other, bulk]


def test_frames_grow_while_the_socket_takes_them_at_once():
    multiplexer, _ = sending(1, 1 << 24)
    sizes = []
    for seconds in [0] * 6 + [2 * PATIENCE] * 6:
        frame, _ = multiplexer.next_frame()
        sizes.append(len(frame) - frames.HEAD_BYTES)
        multiplexer.turns.took(len(frame), seconds)
        multiplexer.turns.took(7, 0)
    assert sizes[0] == sizes[-1] == LEAST_FRAME_BYTES and max(sizes) == MOST_FRAME_BYTES


# Any order

def test_messages_arrive_whole_and_in_order_whatever_happens():
    """Two ends and a wire that cuts, joins and delays; the model of a channel is a list of messages."""
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    for _ in range(60):
        window = draw.choice([1, 2, 7, 100, 5000])
        here, there = Multiplexer(window), Multiplexer(draw.choice([1, 3, 50, 4000]))
        ours = here.open("box", 1)
        here.next_frame()
        there.received(b"\x10\0\0\0\x02" + b'{"server":"box","port":1,"credit":%d}' % window)
        theirs = there.flows[2]
        theirs.accept()
        wires = {here: [], there: []}
        outgoing = {flow: [(draw.random() < 0.5, draw.randbytes(draw.choice([0, 1, 2, 9, 300])))
                           for _ in range(draw.randrange(12))] for flow in (ours, theirs)}
        expected = {flow: list(messages) for flow, messages in outgoing.items()}
        received = {ours: [], theirs: []}
        parts = {ours: b"", theirs: b""}
        idle = 0
        while idle < 200:
            idle += 1
            flow, multiplexer, other = draw.choice([(ours, here, there), (theirs, there, here)])
            action = draw.randrange(4)
            if action == 0 and outgoing[flow] and flow.can_offer:
                flow.offer(*outgoing[flow].pop(0), False)
            elif action == 0 and not outgoing[flow] and flow.can_offer and not flow.has_ended:
                flow.end()
            elif action == 1 and (step := multiplexer.next_frame()) is not None:
                wires[multiplexer].append(step[0])
            elif action == 2 and wires[multiplexer]:
                message = wires[multiplexer].pop(0)
                number = 2 if other is there else 1
                message = message[:1] + number.to_bytes(4, "big") + message[5:]
                if message[0] & 0x7F <= 1 and len(message) > 6 and draw.random() < 0.3:
                    cut = draw.randrange(6, len(message))
                    other.received(bytes([message[0] | 0x80]) + message[1:cut])
                    message = message[:5] + message[cut:]
                other.received(message)
            elif action == 3 and flow.has_waiting:
                is_text, payload, more = flow.take()
                parts[flow] += payload
                if not more:
                    received[flow].append((is_text, parts[flow]))
                    parts[flow] = b""
            else:
                continue
            idle = 0
        assert received == {ours: expected[theirs], theirs: expected[ours]}, f"seed {seed}"
        assert ours.closed == theirs.closed == (1000, ""), f"seed {seed}"
