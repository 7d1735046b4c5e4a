"""Waiting: always for a condition, never for a time. The deadline only turns a hang into a failure."""

import time

DEADLINE = 20.0  # Below the relay's own pingInterval, so that no ping of it hides a stall.


def eventually(condition, what, deadline=DEADLINE):
    """Returns the first true answer of `condition`; fails when there is none until the deadline."""
    end = time.monotonic() + deadline
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"this did not happen within {deadline:g} s: {what}"
        time.sleep(0.01)  # The pace of looking, not the wait.
