"""A relay's history, and what a follower makes of frames, without a socket."""

from __future__ import annotations

import msgspec
import pytest

from proxy.membership import Instance, Membership
from proxy.registry.records import read
from proxy.registry.relay.frames import Frame, digest_of, key_of, part_of, record_of
from proxy.registry.relay.history import PIECE, History


def pool(*ids: str, port: int = 80, service: str = "users") -> tuple[Instance, ...]:
    return tuple(Instance(service=service, id=id_, address="10.0.0.1", port=port) for id_ in ids)


def frames(lines: list[bytes] | None) -> list[Frame]:
    assert lines is not None
    return [msgspec.json.decode(line, type=Frame) for line in lines]


def known(told: list[Frame]) -> dict[tuple[str, str], bytes]:
    """What a follower knows after these."""
    found: dict[tuple[str, str], bytes] = {}
    for frame in told:
        for name in frame.gone:
            del found[name]
        found.update({(service, id_): bytes(record) for service, id_, record in frame.put})
    return found


def test_a_history_tells_changes_that_lead_from_any_digest_to_the_same_records() -> None:
    history = History()
    history.take(Membership(services={"users": pool("a", "b")}, revision=5), "c")
    start = frames(history.whole())
    assert [frame.revision for frame in start] == [5]
    at = history.after(start[-1].digest)
    assert at is not None
    history.take(Membership(services={"users": pool("a", "c", port=81)}, revision=6), "c")
    history.take(Membership(services={"users": pool("c", port=81)}, revision=8), "c")
    told = frames(history.since(at, 10**6))
    assert [(len(one.put), len(one.gone), one.revision) for one in told] == [(2, 1, 6), (0, 1, 8)]
    assert known([*start, *told]) == known(frames(history.whole()))
    # Whoever has had the first of the two goes on behind it.
    assert history.after(told[0].digest) == at + 1
    assert history.after(told[1].digest) == history.next
    assert history.after("0") is None


def test_a_history_of_the_same_instances_has_the_same_digest_however_it_came_to_them() -> None:
    one, other = History(), History()
    one.take(Membership(services={"users": pool("a", "b")}, revision=1), "c")
    one.take(Membership(services={"users": pool("b")}, revision=2), "c")
    other.take(Membership(services={"users": pool("b")}, revision=2), "c")
    assert one.after(frames(other.whole())[-1].digest) == one.next


def test_a_history_keeps_no_more_than_it_may_and_says_who_is_too_far_behind() -> None:
    history = History(kept=2_000)
    digest = ""
    for number in range(50):
        services = {"users": pool("a", port=1000 + number)}
        history.take(Membership(services=services, revision=number), "c")
        digest = digest or frames(history.whole())[-1].digest
    assert history.after(digest) is None
    assert history.since(0, 10**6) is None
    kept = history.since(history.next - 3, 10**6)
    assert kept is not None
    assert len(kept) == 3
    # A single frame is given whatever its size, or nothing would ever be told.
    assert len(history.since(history.next - 3, 1) or []) == 1


def test_a_list_comes_in_pieces_of_which_all_but_the_last_say_so() -> None:
    history = History()
    ids = [f"i{number:04}" for number in range(2 * PIECE + 1)]
    history.take(Membership(services={"users": pool(*ids)}, revision=7), "c")
    told = frames(history.whole())
    assert [(one.full, one.more) for one in told] == [(True, True), (True, True), (True, False)]
    assert history.whole() is history.whole()
    digest = digest_of((*name, record) for name, record in known(told).items())
    assert str(digest) == told[-1].digest


NAMES = [f"i{number:03}" for number in range(300)]


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        (pool(*NAMES), pool(*NAMES[1:], "new"), 5),
        (pool(*NAMES), pool(*NAMES[:200]) + pool(*NAMES[200:240], port=81), 160),
        (pool(*NAMES), pool(*NAMES), 0),
        (pool(*NAMES), (), 0),
        ((), pool(*NAMES), 300),
    ],
)
def test_a_history_tells_the_parts_that_differ_to_whoever_stood_where_it_never_did(
    before: tuple[Instance, ...], after: tuple[Instance, ...], most: int
) -> None:
    theirs, ours = History(), History()
    theirs.take(Membership(services={"users": before}, revision=5), "c")
    ours.take(Membership(services={"users": after}, revision=9), "c")
    had = known(frames(theirs.whole()))
    digest = digest_of((*one, record) for one, record in had.items())
    told = frames(ours.lead(digest.parts))
    parts = told[0].parts
    assert not told[0].full or before == after
    assert sum(len(one.put) for one in told) <= max(most, len(after) * (before == after))
    kept = {} if told[0].full else had
    kept = {one: record for one, record in kept.items() if part_of(key_of(*one)) not in parts}
    assert kept | known(told) == known(frames(ours.whole()))
    assert [one.more for one in told] == [True] * (len(told) - 1) + [False]
    assert ours.lead(digest.parts) is ours.lead(digest.parts)


@pytest.mark.parametrize("parts", ["x", "AAAA", "\udcff", "A" * 5461, "AAAA" + digest_of(()).parts])
def test_a_history_tells_everything_to_whoever_has_no_parts(parts: str) -> None:
    history = History()
    history.take(Membership(services={"users": pool("a")}, revision=9), "c")
    assert history.lead(parts) is history.whole()


def test_most_parts_are_everything() -> None:
    history = History()
    ids = [f"i{number:05}" for number in range(5000)]
    history.take(Membership(services={"users": pool(*ids)}, revision=9), "c")
    assert history.lead(digest_of(()).parts) is history.whole()


def test_parts_fit_into_a_line_of_a_request() -> None:
    assert len(digest_of(()).parts) < 8190 - 1000


def test_an_empty_list_is_a_list() -> None:
    history = History()
    history.take(Membership(services={}, revision=7), "c")
    (frame,) = frames(history.whole())
    assert frame.full
    assert not frame.more
    assert frame.put == ()


@pytest.mark.parametrize(
    "instance",
    [
        Instance(service="users", id="a", address="::1", port=1),
        Instance(service="users", id="a", address="fe80::1%eth0", port=65535, health="draining"),
        Instance(
            service="users",
            id="a",
            address="web-1.internal",
            port=80,
            weight=7,
            version="1.2",
            metadata={"weight": "7", "zone": "b", "scheme": "https"},
            health="Odd word",
            health_message="disk is full",
        ),
    ],
)
def test_a_record_is_read_as_the_instance_that_it_was_made_of(instance: Instance) -> None:
    assert read("users", "a", record_of(instance)) == (instance, "")
