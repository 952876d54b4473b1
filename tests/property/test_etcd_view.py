"""The laws of the view, against a model of the store.

The model is a list of revisions, each a few writes. A hostile watch delivers them: in batches
of any size, with stretches repeated, with disconnects, with compactions that force a list. In
the end the view must hold what the store holds, and no membership on the way may lack an
instance that was registered throughout.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.membership import Membership
from proxy.registry.etcd.view import View
from proxy.registry.etcd.wire import Event, KeyValue

KEYS = [f"/s/{service}/{n}".encode() for service in ("a", "b") for n in range(3)]

Write = tuple[bytes, int | None]
"""A key and the port it is registered with, None = deleted."""

writes = st.tuples(st.sampled_from(KEYS), st.none() | st.integers(1, 5))
revisions = st.lists(writes, min_size=1, max_size=3, unique_by=lambda write: write[0])
histories = st.lists(revisions, max_size=30)


def value(port: int) -> bytes:
    return b'{"address": "a", "port": %d}' % port


class Store:
    """What etcd would hold after each revision. Revision n is `history[n - 1]`."""

    def __init__(self, history: list[list[Write]]) -> None:
        self.events: list[list[Event]] = []
        self.states: list[dict[bytes, KeyValue]] = [{}]
        for revision, batch in enumerate(history, start=1):
            state = dict(self.states[-1])
            events = []
            for key, port in batch:
                if port is not None:
                    state[key] = KeyValue(key, value(port), revision)
                    events.append(Event(state[key]))
                elif state.pop(key, None) is not None:
                    events.append(Event(KeyValue(key, b"", revision), "DELETE"))
            self.events.append(events)
            self.states.append(state)

    @property
    def newest(self) -> int:
        return len(self.events)

    def frame(self, start: int, end: int) -> list[Event]:
        return [event for batch in self.events[start - 1 : end] for event in batch]


def flat(membership: Membership) -> dict[bytes, int]:
    return {
        f"/s/{service}/{instance.id}".encode(): instance.port
        for service, members in membership.services.items()
        for instance in members
    }


def expected(state: dict[bytes, KeyValue]) -> dict[bytes, int]:
    return {key: int(kv.value.rpartition(b" ")[2][:-1]) for key, kv in state.items()}


def adopt(view: View, state: dict[bytes, KeyValue], revision: int, page: int = 2) -> int:
    draft = view.draft(revision)
    kvs = sorted(state.values(), key=lambda kv: kv.key)
    for start in range(0, len(kvs), page):
        draft.add(kvs[start : start + page])
    return view.adopt(draft)


steps = st.lists(
    st.tuples(st.sampled_from(["frame", "repeat", "list", "bookmark"]), st.integers(0, 10)),
    max_size=30,
)


@given(histories, steps, st.integers(0, 30))
def test_any_delivery_ends_in_the_state_of_the_store(
    history: list[list[Write]], deliveries: list[tuple[str, int]], first: int
) -> None:
    store = Store(history)
    view = View("/s/")
    first = min(first, store.newest)
    adopt(view, store.states[first], first)
    reached = first
    for kind, size in deliveries:
        before = view.membership()
        if kind == "frame":  # the next revisions, from wherever the view wants them
            reached = min(view.revision + size, store.newest)
            view.apply(store.frame(view.resume, reached))
        elif kind == "repeat":  # a member that lags, or a stream that starts too early
            reached = view.revision
            view.apply(store.frame(max(1, view.resume - size), reached))
        elif kind == "list":
            reached = min(view.revision + size, store.newest)
            adopt(view, store.states[reached], reached)
        else:
            if any(store.events[view.revision : reached]):
                continue  # etcd sends a bookmark only when all before it was delivered
            view.bookmark(reached)
        state = store.states[reached]
        after = view.membership()
        assert flat(after) == expected(state)
        assert view.resume <= reached + 1
        newest = max(state.values(), key=lambda kv: kv.mod_revision, default=None)
        assert view.agrees(newest, len(state))
        assert view.differences(state, reached) == set()
        for service, members in after.services.items():
            if members == before.services.get(service):
                assert members is before.services[service]
        assert (after is before) == (flat(after) == flat(before))


@given(histories, st.integers(0, 30), st.integers(0, 30))
def test_a_missed_stretch_never_goes_unnoticed(
    history: list[list[Write]], first: int, skipped: int
) -> None:
    """Whoever has an old state of the same store is told so by comparison."""
    store = Store(history)
    old = store.states[min(first, store.newest)]
    view = View("/s/")
    adopt(view, old, min(first, store.newest))
    state = store.states[min(first + skipped, store.newest)]
    missed = {key for key in old.keys() | state.keys() if old.get(key) != state.get(key)}
    assert {key for key, _ in view.differences(state, store.newest)} == missed


@given(histories, histories)
def test_a_store_that_went_back_never_shrinks_a_pool_until_released(
    before: list[list[Write]], after: list[list[Write]]
) -> None:
    old, new = Store(before), Store(after)
    view = View("/s/")
    adopt(view, old.states[-1], 100)
    served = set(flat(view.membership()))
    adopt(view, {}, 0)
    assert set(flat(view.membership())) == served
    deleted: set[bytes] = set()
    for revision in range(1, new.newest + 1):
        frame = new.frame(revision, revision)
        view.apply(frame)
        deleted |= {event.kv.key for event in frame if event.deleted}
        assert served - deleted <= set(flat(view.membership()))
    view.release()
    assert flat(view.membership()) == expected(new.states[-1])


@given(histories, st.lists(st.sampled_from(KEYS), max_size=6))
def test_unreadable_values_harm_no_other_key(history: list[list[Write]], bad: list[bytes]) -> None:
    store = Store(history)
    view = View("/s/")
    adopt(view, store.states[-1], store.newest)
    before = flat(view.membership())
    for revision, key in enumerate(bad, start=store.newest + 1):
        view.apply([Event(KeyValue(key, b"{", revision))])
    assert flat(view.membership()) == before
    listed = {record.key.encode(): record.kept for record in view.invalid()}
    assert listed == {key: key in before for key in bad}
