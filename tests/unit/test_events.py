"""Events: everybody hears everything, and who does not read costs nobody else anything."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from proxy.control.events import KEPT, Event, Events, TooManyListeners, encode


def seen(events: list[bytes]) -> list[tuple[int, str]]:
    """Number and kind of each."""
    pairs = [event.split(b"\n")[:2] for event in events]
    return [(int(number[4:]), kind[7:].decode()) for number, kind in pairs]


def test_each_listener_hears_what_happens_from_now_on() -> None:
    events = Events()
    events.publish("pools", 1.0)
    with events.listen() as one:
        events.publish("ejected", 2.0, service="s", now="any name may be a field")
        with events.listen() as other:
            events.publish("reinstated", 3.0)
            assert seen(other.take()[0]) == [(3, "reinstated")]
        found, lost = one.take()
        assert seen(found) == [(2, "ejected"), (3, "reinstated")]
        assert lost == 0
        assert one.take() == ([], 0)


def test_a_listener_that_does_not_read_loses_the_oldest_and_is_told_how_many() -> None:
    events = Events(buffer=3)
    with events.listen() as slow:
        for number in range(10):
            events.publish("pools", float(number))
        found, lost = slow.take()
        assert seen(found) == [(8, "pools"), (9, "pools"), (10, "pools")]
        assert lost == 7


def test_events_waiting_for_a_listener_have_a_bound_in_bytes() -> None:
    events = Events(max_bytes=1000)
    with events.listen() as slow:
        for number in range(10):
            events.publish("pools", float(number), changed="x" * 300)
        found, lost = slow.take()
        assert (len(found), lost) == (2, 8)
        assert sum(map(len, found)) <= 1000
        # One that is larger by itself is told all the same.
        events.publish("pools", 1.0, changed="x" * 5000)
        assert seen(slow.take()[0]) == [(11, "pools")]
        events.publish("pools", 1.0, changed="x" * 5000)
        events.publish("ejected", 1.0)
        assert slow.take()[1] == 1


def test_the_number_of_listeners_is_bounded() -> None:
    events = Events(max_listeners=1)
    with events.listen(), pytest.raises(TooManyListeners), events.listen():
        pass
    with events.listen():
        pass


async def test_waiting_ends_with_the_next_event() -> None:
    events = Events()
    with events.listen() as listener:
        assert not await listener.wait(0.0)
        waiting = asyncio.create_task(listener.wait(5.0))
        await asyncio.sleep(0)
        events.publish("pools", 1.0)
        assert await waiting


def test_as_a_server_sent_event() -> None:
    text = encode(Event(7, "ejected", 1.5, {"reason": "two\nlines"}))
    head, data = text.decode().split("data: ")
    assert head == "id: 7\nevent: ejected\n"
    assert data.endswith("\n\n")
    assert msgspec.json.decode(data) == {"time": 1.5, "reason": "two\nlines"}
    assert text.count(b"\n") == 4


def test_the_last_events_are_kept_for_who_comes_later() -> None:
    events = Events()
    for number in range(KEPT + 5):
        events.publish("drained", 0.0, number=number)
    kept = events.kept()
    assert (len(kept), kept) == (KEPT, events.kept())
    assert b'"number":5}' in kept[0]
    with events.listen(kept=True) as later, events.listen() as now:
        events.publish("undrained", 0.0)
        assert later.take()[0][:KEPT] == kept
        assert len(now.take()[0]) == 1
