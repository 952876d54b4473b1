"""The view's decisions, one by one. Its laws are in `tests/property/test_etcd_view.py`."""

from __future__ import annotations

from msgspec.structs import replace

from proxy.registry.etcd.view import View
from proxy.registry.etcd.wire import Event, KeyValue


def kv(key: str, revision: int, port: int = 80, value: bytes | None = None) -> KeyValue:
    body = b'{"address": "a", "port": %d}' % port if value is None else value
    return KeyValue(f"/s/{key}".encode(), body, revision)


def put(key: str, revision: int, port: int = 80, value: bytes | None = None) -> Event:
    return Event(kv(key, revision, port, value))


def delete(key: str, revision: int) -> Event:
    return Event(KeyValue(f"/s/{key}".encode(), b"", revision), "DELETE")


def listed(*kvs: KeyValue, revision: int) -> View:
    view = View("/s/")
    adopt(view, *kvs, revision=revision)
    return view


def adopt(view: View, *kvs: KeyValue, revision: int, went_back: bool = False) -> int:
    draft = view.draft(revision)
    draft.add(kvs)
    return view.adopt(draft, went_back=went_back)


def ids(view: View, service: str = "a") -> list[str]:
    return [instance.id for instance in view.membership().services.get(service, ())]


def test_a_watch_resumes_behind_the_list_and_then_behind_the_last_event() -> None:
    view = listed(kv("a/1", 5), revision=10)
    assert view.resume == 11
    view.apply([put("a/2", 12), put("a/3", 13)])
    assert view.resume == 14
    view.bookmark(20)
    assert view.resume == 21
    view.bookmark(15)
    assert view.resume == 21


def test_events_below_the_resume_point_change_nothing() -> None:
    view = listed(kv("a/1", 5), kv("a/2", 6), revision=10)
    before = view.membership()
    view.apply([delete("a/1", 9), put("a/2", 10, port=1), put("a/3", 3)])
    assert view.membership() is before
    assert view.resume == 11


def test_all_events_of_one_revision_are_applied() -> None:
    view = listed(revision=1)
    view.apply([put("a/1", 2), put("a/2", 2), put("b/1", 2)])
    assert (ids(view), ids(view, "b")) == (["1", "2"], ["1"])


def test_an_untouched_service_keeps_its_tuple() -> None:
    view = listed(kv("a/1", 1), kv("b/1", 1), revision=1)
    before = view.membership()
    view.apply([put("a/2", 2)])
    after = view.membership()
    assert after is not before
    assert after.services["b"] is before.services["b"]
    assert after.revision == 2


def test_a_rewritten_value_that_says_the_same_is_no_change() -> None:
    view = listed(kv("a/1", 1), revision=1)
    before = view.membership()
    view.apply([put("a/1", 2), put("a/1", 3, value=b'{"port":80,"address":"a","x":1}')])
    assert view.membership() is before
    assert view.revision == 3


def test_the_last_instance_takes_its_service_along() -> None:
    view = listed(kv("a/1", 1), revision=1)
    view.apply([delete("a/1", 2)])
    assert dict(view.membership().services) == {}
    view.apply([delete("a/1", 3), put("a/1", 4)])
    assert ids(view) == ["1"]


def test_earlier_memberships_do_not_change() -> None:
    view = listed(kv("a/1", 1), revision=1)
    before = view.membership()
    view.apply([delete("a/1", 2), put("b/1", 3)])
    view.membership()
    assert list(before.services) == ["a"]


def test_an_unreadable_value_keeps_the_last_good_one() -> None:
    view = listed(kv("a/1", 1, port=7), revision=1)
    view.apply([put("a/1", 2, value=b"{"), put("a/2", 3, value=b"{")])
    assert [instance.port for instance in view.membership().services["a"]] == [7]
    assert [(bad.key, bad.kept) for bad in view.invalid()] == [("/s/a/1", True), ("/s/a/2", False)]
    # It outlives further bad values and a full list, and ends with the key or a good value.
    view.apply([put("a/1", 4, value=b"[]")])
    adopt(view, kv("a/1", 5, value=b"1"), kv("a/2", 6, port=9), revision=6)
    assert [(i.id, i.port) for i in view.membership().services["a"]] == [("1", 7), ("2", 9)]
    view.apply([delete("a/1", 7)])
    assert view.invalid() == ()
    view.apply([put("a/1", 8, value=b"{")])
    assert ids(view) == ["2"]


def test_an_unreadable_key_is_listed() -> None:
    view = listed(kv("a/1/2", 1), kv("a/", 1), revision=1)
    assert [bad.kept for bad in view.invalid()] == [False, False]
    assert dict(view.membership().services) == {}
    assert len(view) == 2


def test_a_list_is_applied_by_its_difference() -> None:
    view = listed(kv("a/1", 1), kv("a/2", 1), kv("b/1", 1), revision=1)
    before = view.membership()
    different = adopt(view, kv("a/1", 1), kv("a/3", 4), kv("b/1", 1), revision=9)
    assert different == 2
    assert ids(view) == ["1", "3"]
    assert view.membership().services["b"] is before.services["b"]
    assert view.resume == 10


def test_a_store_that_went_back_takes_nobody_out_at_once() -> None:
    view = listed(kv("a/1", 1), kv("a/2", 2), kv("b/1", 3), revision=50)
    adopt(view, revision=3)
    assert (view.retained, len(view), view.resume) == (3, 0, 4)
    assert (ids(view), ids(view, "b")) == (["1", "2"], ["1"])
    # Two come back, one of them changed; a stranger joins.
    view.apply([put("a/1", 4), put("a/2", 5, port=99), put("c/1", 6)])
    assert view.retained == 1
    assert [instance.port for instance in view.membership().services["a"]] == [80, 99]
    view.release()
    assert (view.retained, ids(view, "b"), ids(view), ids(view, "c")) == (0, [], ["1", "2"], ["1"])


def test_the_retained_survive_another_list_and_obey_a_delete() -> None:
    view = listed(kv("a/1", 1), kv("a/2", 2), revision=50)
    adopt(view, revision=60, went_back=True)
    adopt(view, kv("b/1", 61), revision=61)
    assert ids(view) == ["1", "2"]
    view.apply([put("a/1", 62), delete("a/1", 63)])
    assert ids(view) == ["2"]


def test_the_unreadable_are_not_held() -> None:
    view = listed(kv("a/1", 1, value=b"{"), revision=50)
    adopt(view, revision=3)
    assert (view.retained, view.invalid()) == (0, ())


def test_an_unreadable_value_keeps_a_held_instance() -> None:
    view = listed(kv("a/1", 1, port=7), revision=50)
    adopt(view, revision=3)
    view.apply([put("a/1", 4, value=b"{")])
    view.release()
    assert [instance.port for instance in view.membership().services["a"]] == [7]


def test_agreement_with_a_probe() -> None:
    view = listed(kv("a/1", 1), kv("a/2", 2), revision=5)
    assert view.agrees(kv("a/2", 2), 2)
    assert not view.agrees(kv("a/2", 2), 3), "a key is missing here"
    assert not view.agrees(kv("a/2", 4), 2), "a write is missing here"
    assert not view.agrees(kv("a/2", 2, port=1), 2), "another history"
    assert not view.agrees(kv("a/3", 2), 2), "another history"
    assert not view.agrees(None, 0)
    view.apply([delete("a/2", 6)])
    assert view.agrees(kv("a/1", 1), 1)
    view.apply([delete("a/1", 7)])
    assert view.agrees(None, 0)
    assert not view.agrees(kv("a/1", 8), 1)


def test_a_probe_may_name_any_key_of_the_newest_transaction() -> None:
    view = listed(revision=1)
    view.apply([put("a/1", 2), put("a/2", 2)])
    assert view.agrees(kv("a/1", 2), 2)
    assert view.agrees(kv("a/2", 2), 2)


def test_the_retained_do_not_count_in_a_probe() -> None:
    view = listed(kv("a/1", 1), revision=50)
    adopt(view, revision=3)
    assert view.agrees(None, 0)


def test_differences_with_a_full_list() -> None:
    view = listed(kv("a/1", 1), kv("a/2", 2), kv("a/3", 3), revision=9)
    store = {each.key: each for each in (kv("a/1", 1), kv("a/2", 5), kv("a/4", 6))}
    assert view.differences(store, 9) == {
        (b"/s/a/2", kv("a/2", 5)),
        (b"/s/a/3", None),
        (b"/s/a/4", kv("a/4", 6)),
    }
    # What the view knows to be newer than the list is no difference.
    view.apply([put("a/2", 10), put("a/3", 11), put("a/4", 12), put("a/5", 13)])
    assert view.differences(store, 9) == set()


def test_the_order_is_that_of_the_ids() -> None:
    view = listed(kv("a/b", 1), kv("a/c", 1), kv("a/a", 1), revision=1)
    assert ids(view) == ["a", "b", "c"]
    assert view.instances == 3


def test_departures_tell_what_is_known_of_how_they_went() -> None:
    view = View("/s/")

    def departures() -> list[tuple[str, int, int]]:
        return [(one.id, one.lease, one.revision) for one in view.membership().departures]

    view.apply([Event(replace(kv(f"a/{n}", n), lease=n + 100)) for n in (1, 2, 3, 4)])
    assert departures() == []
    view.apply([delete("a/1", 5), delete("a/2", 5)])
    assert departures() == [("1", 101, 5), ("2", 102, 5)]
    # Back before anybody looked: it never went.
    view.apply([delete("a/3", 6), put("a/3", 7, port=81)])
    assert departures() == []
    # Found missing in a list: nobody saw when.
    adopt(view, kv("a/3", 7, port=81), revision=9)
    assert departures() == [("4", 104, 0)]


def test_news_of_records_that_are_refused_or_odd() -> None:
    def news(view: View) -> list[str]:
        told = [(record.key, record.reason) for record in view.news()]
        # For the reason that it has now.
        assert {*told} <= {(one.key, one.reason) for one in (*view.invalid(), *view.odd())}
        return [key for key, _ in told]

    view = listed(kv("a/1", 1, value=b"{}"), kv("a/2", 1), revision=1)
    assert news(view) == ["/s/a/1"]
    assert news(view) == []
    # Again for the same reason is no news; for another one it is.
    view.apply([put("a/1", 2, value=b'{"x": 1, "y": 2}'), put("a/2", 3, value=b"7")])
    assert news(view) == ["/s/a/1", "/s/a/2"]
    view.apply([put("a/1", 4, value=b'{"x": 2, "y": 2}'), put("a/2", 5, value=b"7 ")])
    assert news(view) == []
    view.apply([put("a/1", 6, value=b'{"address": "a", "port": 1, "metadata": 7}')])
    assert news(view) == ["/s/a/1"]
    assert ([one.key for one in view.invalid()], len(view.odd())) == (["/s/a/2"], 1)
    # What was mended, or is gone, before anybody asked.
    view.apply([put("a/1", 7, value=b"{}"), put("a/1", 8), delete("a/2", 9)])
    assert news(view) == []
    assert (view.invalid(), view.odd()) == ((), ())
    view.apply([put("a/1", 10, value=b"{}")])
    assert news(view) == ["/s/a/1"]


def test_an_odd_record_is_listed_while_it_is_so() -> None:
    odd = b'{"address": "a", "port": 1, "metadata": {"weight": "x"}}'
    view = listed(kv("a/1", 1, value=odd), revision=1)
    (record,) = view.odd()
    assert (record.key, record.service) == ("/s/a/1", "a")
    assert "metadata.weight" in record.reason
    assert (ids(view), view.invalid()) == (["1"], ())
    adopt(view, kv("a/1", 1, value=odd), revision=5)
    assert len(view.odd()) == 1
    # One that is held is not in the store.
    adopt(view, revision=6, went_back=True)
    assert (view.odd(), ids(view)) == ((), ["1"])
    view.apply([put("a/1", 7, value=odd)])
    assert len(view.odd()) == 1


def test_of_two_records_about_one_instance_the_newer_counts_in_a_list_as_well() -> None:
    node = '{"nodes": [{"id": "x", "address": "10.0.0.%d:80"}]}'
    old, new = kv("a/2", 3, value=(node % 1).encode()), kv("a/1", 9, value=(node % 2).encode())
    listed_ = listed(new, old, revision=10)
    told = listed(old, revision=5)
    told.apply([Event(new)])
    for view in (listed_, told):
        assert [one.address for one in view.membership().services["a"]] == ["10.0.0.2"]


def test_an_unreadable_value_is_shown_beside_the_service_that_it_keeps() -> None:
    named = b'{"Op": 0, "Addr": "10.0.0.1:80"}'
    view = listed(kv("a/users/1", 2, value=named), revision=2)
    view.apply([put("a/users/1", 3, value=b"x"), put("a/orders/1", 4, value=b"x")])
    assert ids(view, "a.users") == ["1"]
    assert [(one.service, one.kept) for one in view.invalid()] == [("a", False), ("a.users", True)]
