"""Laws of a roster, for a registry that tells neither revisions nor leases and has keys of its own:
what is served is what the registry names, with the last good value of each, and those retained."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.membership import Instance, Membership
from proxy.registry.records import Unreadable
from proxy.registry.roster import Roster, differences, single

KEYS = [f"node{n}|{service}".encode() for n in range(3) for service in ("a", "b")]
BAD = b"?"

values = st.sampled_from([b"1", b"2", b"3", BAD])
stores = st.dictionaries(st.sampled_from(KEYS), values, max_size=len(KEYS))
steps = st.one_of(
    st.tuples(st.just("put"), st.tuples(st.sampled_from(KEYS), values)),
    st.tuples(st.just("remove"), st.sampled_from(KEYS)),
    st.tuples(st.just("list"), stores),
    st.tuples(st.just("list of one that is doubted"), stores),
    st.tuples(st.just("release"), st.none()),
)


def service_of(key: bytes) -> str:
    return key.decode().partition("|")[2]


def read(key: bytes, value: bytes) -> tuple[Instance, str]:
    if value == BAD:
        raise Unreadable("no number")
    node, _, service = key.decode().partition("|")
    odd = "three" if value == b"3" else ""
    return Instance(service=service, id=node, address="10.0.0.1", port=int(value)), odd


def flat(membership: Membership) -> dict[bytes, int]:
    return {
        f"{one.id}|{service}".encode(): one.port
        for service, members in membership.services.items()
        for one in members
    }


@given(st.lists(steps, max_size=20))
def test_a_roster_serves_what_the_registry_names_and_what_it_retains(
    script: list[tuple[str, object]],
) -> None:
    roster = Roster(single(read), service_of)
    store: dict[bytes, bytes] = {}
    good: dict[bytes, int] = {}
    """The last good value of each key that is named or retained."""
    retained: set[bytes] = set()

    def state(key: bytes, value: bytes) -> None:
        store[key] = value
        retained.discard(key)
        if value != BAD:
            good[key] = int(value)

    def drop(key: bytes) -> None:
        store.pop(key, None)
        retained.discard(key)
        good.pop(key, None)

    for what, given_ in script:
        before = roster.membership()
        if what == "put":
            key, value = given_
            roster.put(roster.entry(key, value))
            state(key, value)
        elif what == "remove":
            roster.remove(given_)
            drop(given_)
        elif what == "release":
            roster.release()
            for key in list(retained):
                drop(key)
        else:
            doubted = what != "list"
            entries = {key: roster.entry(key, value) for key, value in given_.items()}
            keys = store.keys() | given_.keys()
            differ = {key for key in keys if store.get(key) != given_.get(key)}
            assert roster.unlike(entries) == {
                (key, entries[key].stated if key in entries else None) for key in differ
            }
            assert roster.replace(entries, 0, retain=doubted) == len(differ)
            for key in store.keys() - given_.keys():
                if doubted and key in good:
                    del store[key]
                    retained.add(key)
                else:
                    drop(key)
            for key, value in given_.items():
                state(key, value)
        after = roster.membership()
        assert flat(after) == good
        assert (roster.retained, len(roster), roster.instances) == (
            *(len(retained), len(store), len(good)),
        )
        assert {one.key.encode(): one.kept for one in roster.invalid()} == {
            key: key in good for key, value in store.items() if value == BAD
        }
        assert {one.key.encode() for one in roster.odd()} == {
            key for key, value in store.items() if value == b"3"
        }
        for service, members in after.services.items():
            assert [one.id for one in members] == sorted(one.id for one in members)
            if members == before.services.get(service):
                assert members is before.services[service]
        assert (after is before) == (flat(after) == flat(before))
        gone = {(one.service, one.id) for one in after.departures} if after is not before else set()
        assert gone >= {
            (service_of(key), key.decode().partition("|")[0])
            for key in flat(before).keys() - good.keys()
        }


@given(stores, stores)
def test_differences_are_what_a_registry_holds_of_keys_where_it_is_not_what_is_known(
    held: dict[bytes, bytes], known: dict[bytes, bytes]
) -> None:
    found = dict(differences(held, known))
    assert {**known, **found} == {**dict.fromkeys(known), **held}
    assert not found.items() & known.items()


def test_a_complaint_about_a_record_is_news_once_and_again_for_another_reason() -> None:
    roster = Roster(single(read), service_of)
    key = KEYS[0]
    for value, expected in ((BAD, 1), (BAD, 0), (b"1", 0), (b"3", 1), (BAD, 1)):
        roster.put(roster.entry(key, value))
        assert len(roster.news()) == expected
    assert roster.news() == ()
    assert [one.kept for one in roster.invalid()] == [True]


def test_of_two_records_of_one_instance_the_newer_counts() -> None:
    roster = Roster(single(lambda key, value: read(b"node1|a", value)), service_of)
    for key, value in ((b"old|a", b"1"), (b"new|a", b"2")):
        roster.put(roster.entry(key, value))
    assert flat(roster.membership()) == {b"node1|a": 2}
    roster.remove(b"old|a")
    assert flat(roster.membership()) == {b"node1|a": 2}


NODES = "xyz"
nodes = st.dictionaries(st.sampled_from(NODES), st.sampled_from("123?"), max_size=3)
records = st.dictionaries(st.sampled_from(KEYS[:3]), st.none() | nodes, max_size=3)
"""Key → the nodes of its record, each with its port, `?` for one that cannot be read; None for a
record of which nothing can be read."""


def read_nodes(key: bytes, value: bytes) -> tuple[tuple[Instance, ...], str]:
    """`x1y?`: the node x at port 1, and a node y that cannot be read."""
    if value == BAD:
        raise Unreadable("no nodes")
    pairs = [(value[at : at + 1], value[at + 1 :][:1]) for at in range(0, len(value), 2)]
    node, _, service = key.decode().partition("|")
    found = tuple(
        Instance(service=service, id=node + id_.decode(), address="h", port=int(port))
        for id_, port in pairs
        if port != b"?"
    )
    if unread := {node + id_.decode() for id_, port in pairs if port == b"?"}:
        raise Unreadable("a node", found, unread)
    return found, ""


@given(st.lists(st.tuples(st.booleans(), records), max_size=12), st.booleans())
def test_of_a_record_of_several_only_those_change_of_which_it_says_something_else(
    script: list[tuple[bool, dict[bytes, dict[str, str] | None]]], released: bool
) -> None:
    """Whether records are put one by one or come in a list, which takes those it lacks away, or
    retains them if it is doubted."""
    roster = Roster(read_nodes, service_of)
    served: dict[bytes, dict[str, int]] = {}
    stored: set[bytes] = set()
    for listed, changes in script:
        before = roster.membership()
        entries = {}
        for key, known in changes.items():
            value = BAD if known is None else "".join(map("".join, known.items())).encode()
            entries[key] = roster.entry(key, value)
            last = served.get(key, {})
            served[key] = (
                last
                if known is None
                else {
                    id_: int(port) if port != "?" else last[id_]
                    for id_, port in known.items()
                    if port != "?" or id_ in last
                }
            )
        if listed:
            roster.replace(entries, 0, retain=not released)
            for key in stored - entries.keys():
                if released or not served[key]:
                    del served[key]
            stored = set(entries)
        else:
            for entry in entries.values():
                roster.put(entry)
            stored |= entries.keys()
        expected = {
            key.replace(b"|", id_.encode() + b"|"): port
            for key, known in served.items()
            for id_, port in known.items()
        }
        after = roster.membership()
        assert flat(after) == expected
        assert roster.instances == len(expected)
        held = sorted(one.id for one in roster.held())
        assert held == sorted(
            key.decode().partition("|")[0] + id_
            for key in served.keys() - stored
            for id_ in served[key]
        )
        assert roster.retained == len(held)
        old = {(one.service, one.id): one for each in before.services.values() for one in each}
        for one in (one for each in after.services.values() for one in each):
            if old.get((one.service, one.id)) == one:
                assert old[one.service, one.id] is one
        gone = {(one.service, one.id) for one in after.departures} if after is not before else set()
        new = {(one.service, one.id) for each in after.services.values() for one in each}
        assert after is before or gone == old.keys() - new
    for key in list(roster.entries):
        roster.remove(key)
    roster.release()
    assert flat(roster.membership()) == {}
