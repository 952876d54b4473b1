"""Filters: who is asked when, what becomes of those that fail, wait or hang, what they change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.filters.message import Headers
from proxy.messages import Configure, WorkerConfig
from proxy.settings.filters import FilterSpec
from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RespondSpec, RouteSpec
from proxy.settings.service import (
    RateLimitSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.filters import HEARD, spec
from tests.support.wire import OK, OK_RELAYED, forwarded, request
from tests.wire.scenes import BAD, BAD_RELAYED, CHUNKED, GET, answered, asked

HOOKS = ("request", "response")


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[str]]:
    HEARD.clear()
    yield HEARD
    HEARD.clear()


def scripted(says: str, at: str = "", does: str = "") -> FilterSpec:
    return spec("Scripted", says, says=says, at=at, does=does)


def filtered(make: Any, *route: FilterSpec, **options: Any) -> Any:
    """A wire whose only route has these filters."""
    spec_ = RouteSpec(path_prefix="/", service="s", filters=route)
    return make(routes=(spec_,), **options)


def test_filters_are_asked_from_listener_to_service_and_answers_go_back(
    make: Any, heard: list[str]
) -> None:
    wire = filtered(
        make,
        scripted("r1"),
        scripted("r2"),
        listener=ListenerSettings(filters=(scripted("l"),)),
        settings=ServiceSettings(filters=(scripted("s"),)),
    )
    client, a = asked(wire)
    assert heard == ["l.request", "r1.request", "r2.request", "s.request"]
    answered(client, a)
    assert heard[4:8] == ["s.response", "r2.response", "r1.response", "l.response"]
    ends = [f"{one}.{what}" for one in ("l", "r1", "r2", "s") for what in ("outcome ok", "end")]
    assert heard[8:] == ends


def test_filters_of_a_listener_see_answers_behind_a_rate_limit(make: Any, heard: list[str]) -> None:
    limited = ServiceSettings(rate_limit=RateLimitSettings(requests=100, per=1.0, burst=0))
    wire = make(listener=ListenerSettings(filters=(scripted("l"),)), settings=limited)
    answered(*asked(wire))
    assert "l.response" in heard


def test_a_service_without_a_list_has_that_of_defaults_and_others_none(make: Any) -> None:
    wire = make()
    config = RouteSpec(path_prefix="/", service="s")
    wire.configure((config,), {"s": ServiceSettings()})
    client, a = asked(wire)
    answered(client, a)
    assert HEARD == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_of_a_filter_goes_back_by_those_before_it(
    make: Any, heard: list[str], method: str
) -> None:
    wire = filtered(
        make,
        scripted("before"),
        scripted("answers", "request", "answer"),
        scripted("behind"),
    )
    client = wire.client()
    client.send(request(f"{method} /x"))
    head, _, content = client.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 299 \r\n")
    assert b"\r\nX-By: answers\r\n" in head
    assert content == (b"by a filter" if method == "GET" else b"")
    assert heard[:3] == ["before.request", "answers.request", "before.response"]
    assert "behind.outcome ok" not in heard
    assert list(wire.worker.counters.filters.values()) == [{"299": 1}]
    wire.expect_no_dial()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("does", "status", "fault"),
    [
        ("raise", 500, "filter_failed"),
        ("fail", 500, "filter_failed"),
        ("hang", 504, "filter_timeout"),
        ("refuse", 403, "denied"),
        ("wrong", 500, "filter_failed"),
    ],
)
def test_a_hook_that_fails_or_hangs_ends_its_own_request_alone(
    make: Any, heard: list[str], hook: str, does: str, status: int, fault: str
) -> None:
    bad = RouteSpec(path_prefix="/bad", service="s", filters=(scripted("f", hook, does),))
    wire = make(routes=(bad, RouteSpec(service="s")))
    other, b = asked(wire)
    client = wire.client()
    client.send(request("GET /bad"))
    if hook == "response":
        a = wire.connected()
        a.take()
        a.send(OK)
    wire.advance(3)
    client.expect_problem(status, fault)
    answered(other, b)
    assert list(wire.worker.counters.filters.values()) == [{fault: 1}]
    assert [one for one in heard if one.endswith("cancelled")] == (
        [f"f.{hook} cancelled"] if does == "hang" else []
    )
    client.send(GET)  # The connection goes on.
    b.take()
    answered(client, b)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_waits_holds_up_its_own_request_alone(
    make: Any, heard: list[str], hook: str
) -> None:
    waits = RouteSpec(path_prefix="/w", service="s", filters=(scripted("f", hook, "wait"),))
    wire = make(routes=(waits, RouteSpec(service="s")))
    other, b = asked(wire)
    client = wire.client()
    client.send(request("GET /w"))
    if hook == "request":
        wire.expect_no_dial()
    else:
        a = wire.connected()
        a.take()
        a.send(OK)
        client.expect_nothing()
    answered(other, b)
    wire.advance(1)
    if hook == "request":
        b.expect(forwarded("GET /w"))
        b.send(OK)
    client.expect(OK_RELAYED)
    assert f"f.{hook} done" in heard


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("http2", [False, True])
def test_no_attempt_goes_on_while_a_hook_has_the_answer(
    make: Any, refused: bool, http2: bool
) -> None:
    waits = RouteSpec(path_prefix="/", service="s", filters=(scripted("f", "response", "wait"),))
    settings = ServiceSettings(retry=RetrySettings(on=("503",)), timeouts=Timeouts(total=0.5))
    wire = make("a", "b", routes=(waits,), settings=settings, tls=False)
    client, bad = asked(wire)
    other = "b" if bad.name == "a" else "a"
    if http2:
        wire.node(other).http2 = True
    wire.network.hang(wire.address(other))
    bad.send(BAD)
    wire.advance(0.6)
    client.expect_nothing()
    if refused:
        wire.network.refuse(wire.address(other))
    wire.network.answer(wire.address(other))
    wire.settle()
    if not refused:
        assert b"GET" not in wire.accepted(other).take()
    client.expect_nothing()
    wire.advance(1.0)
    client.expect(BAD_RELAYED)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_client_that_leaves_cancels_a_hook(make: Any, heard: list[str], hook: str) -> None:
    wire = filtered(make, scripted("f", hook, "hang"))
    client = wire.client()
    client.send(GET)
    if hook == "response":
        a = wire.connected()
        a.take()
        a.send(OK)
    client.reset()
    assert heard[-1] in (f"f.{hook} cancelled", "f.end")
    assert f"f.{hook} cancelled" in heard
    assert "f.outcome client_gone" in heard


FAILS = pytest.mark.parametrize(
    ("does", "status", "fault"), [("raise", 500, "filter_failed"), ("refuse", 403, "denied")]
)
"""What a change of content may do at its end."""


@FAILS
@pytest.mark.parametrize("pieces", [(b"abcdef",), (b"abc", b"def")])
def test_a_change_of_a_request_that_fails_ends_it_alone(
    make: Any, pieces: tuple[bytes, ...], does: str, status: int, fault: str
) -> None:
    bad = RouteSpec(path_prefix="/bad", service="s", filters=(scripted("f", "asks", does),))
    wire = make(routes=(bad, RouteSpec(service="s")))
    other, b = asked(wire)
    client = wire.client()
    client.send(request("POST /bad", "Content-Length: 6"))
    for piece in pieces:
        client.send(piece)
    wire.connected().take()
    client.expect_problem(status, fault)
    answered(other, b)
    assert wire.in_flight == 0


@FAILS
@pytest.mark.parametrize("pieces", [(b"abcdef",), (b"abc", b"def")])
def test_a_change_of_an_answer_that_fails_ends_its_request_alone(
    make: Any, pieces: tuple[bytes, ...], does: str, status: int, fault: str
) -> None:
    bad = RouteSpec(path_prefix="/bad", service="s", filters=(scripted("f", "answers", does),))
    wire = make(routes=(bad, RouteSpec(service="s")))
    other, b = asked(wire)
    client = wire.client()
    client.send(request("GET /bad"))
    a = wire.connected()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + pieces[0])
    if pieces[1:]:
        assert b"abc" in client.take()
        a.send(pieces[1])
        assert client.cut  # It has the head, and must not take the rest for whole.
    else:
        client.expect_problem(status, fault)
    answered(other, b)
    assert wire.in_flight == 0


def test_an_end_that_raises_or_hangs_concerns_nobody(make: Any, heard: list[str]) -> None:
    wire = filtered(make, scripted("a", "end", "raise"), scripted("b", "end", "hang"))
    client, a = asked(wire)
    answered(client, a)
    wire.advance(3)
    assert heard[-1] == "b.end cancelled"
    client.send(GET)
    a.take()
    answered(client, a)
    wire.advance(3)


def test_an_instance_that_is_lost_while_a_filter_looks_at_its_answer(make: Any) -> None:
    wire = filtered(make, scripted("f", "response", "wait"))
    client, a = asked(wire)
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    a.reset()  # Nobody reads it now.
    client.expect_nothing()
    wire.advance(1)
    assert client.take().endswith(b"\r\n\r\nhalf")
    assert client.cut


@pytest.mark.parametrize("parts", [1, 2])
def test_an_answer_that_waits_for_a_filter_is_relayed_whole(make: Any, parts: int) -> None:
    wire = filtered(make, scripted("f", "response", "wait"))
    client, a = asked(wire)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nabcdef"
    a.send(answer[:-3] if parts == 2 else answer)
    if parts == 1:
        a.eof()  # It has said all, and need not stay.
    client.expect_nothing()
    wire.advance(1)
    if parts == 2:
        a.send(answer[-3:])
    assert client.take().endswith(b"\r\n\r\nabcdef")


def test_the_proxys_own_answers_are_seen_as_well(make: Any, heard: list[str]) -> None:
    limit = RateLimitSettings(requests=1, per=60.0)
    stamp = spec("headers", response={"set": {"X-Stamp": "1"}})
    wire = filtered(make, stamp, settings=ServiceSettings(rate_limit=limit))
    client, a = asked(wire)
    a.send(OK)
    assert b"\r\nX-Stamp: 1\r\n" in client.take()
    client.send(GET)
    assert b"\r\nX-Stamp: 1\r\n" in client.expect_problem(429, "rate_limited")


def test_a_route_that_answers_by_itself_asks_its_filters_first(make: Any) -> None:
    deny = spec("deny", networks=["0.0.0.0/0"])
    respond = RouteSpec(path="/r", respond=RespondSpec(status=200, body="hi"), filters=(deny,))
    wire = make(routes=(respond, RouteSpec(service="s")))
    client = wire.client()
    client.send(request("GET /r"))
    client.expect_problem(403, "denied")


def test_a_path_that_may_be_read_as_another_route_gets_round_no_filter(make: Any) -> None:
    deny = spec("deny", networks=["0.0.0.0/0"])
    guarded = RouteSpec(path_prefix="/admin", service="s", filters=(deny,))
    wire = make(routes=(guarded, RouteSpec(path_prefix="/", service="s")))
    client = wire.client()
    for path in ("/admin", "/x/../admin", "/%61dmin/"):
        client.send(request(f"GET {path}"))
        client.expect_problem(403, "denied")
    for path in ("/x/..%2Fadmin", "//admin", "/admin;x", "/x%5C..%5Cadmin"):
        client.send(request(f"GET {path}"))
        client.expect_problem(400, "bad_request")
    wire.expect_no_dial()


def test_a_filter_changes_the_path_within_its_route(make: Any) -> None:
    rewriting = spec("Rewriting", path="/new%20x", query="b=2", method="PUT")
    wire = filtered(make, rewriting)
    client, a = wire.client(), None
    client.send(request("GET /x?a=1"))
    a = wire.connected()
    a.expect(forwarded("PUT /new%20x?b=2"))
    answered(client, a)


def test_a_path_that_leaves_its_route_is_a_filters_failure(make: Any) -> None:
    leaves = RouteSpec(
        path_prefix="/old", service="s", filters=(spec("Rewriting", path="/elsewhere"),)
    )
    wire = make(routes=(leaves, RouteSpec(service="s")))
    client = wire.client()
    client.send(request("GET /old"))
    client.expect_problem(500, "filter_failed")


def test_a_path_of_a_listeners_filter_is_matched(make: Any) -> None:
    listener = ListenerSettings(filters=(spec("Rewriting", path="/new/x"),))
    new = RouteSpec(path_prefix="/new", service="s", strip_prefix=True)
    wire = make(routes=(new,), listener=listener)
    client = wire.client()
    client.send(request("GET /old"))
    a = wire.connected()
    assert a.take().startswith(b"GET /x HTTP/1.1\r\n")
    answered(client, a)


def test_filters_of_a_route_see_the_path_as_it_is_matched(make: Any) -> None:
    class_ = "tests.support.filters:Telling"
    listener = ListenerSettings(filters=(spec("Rewriting", path="/a/../new/%78"),))
    wire = filtered(make, spec(class_), listener=listener)
    client = wire.client()
    client.send(request("GET /old"))
    a = wire.connected()
    a.expect(forwarded("GET /new/x", "X-Path: /new/x"))
    answered(client, a)


@pytest.mark.parametrize(
    "change",
    [{"method": "GET"}, {"path": "x"}, {"path": "/a b"}, {"query": "a b"}, {"query": "a=Ł"}],
)
def test_a_change_that_makes_no_request_is_a_filters_failure(
    make: Any, change: dict[str, str]
) -> None:
    wire = filtered(make, spec("Rewriting", **change))
    client = wire.client()
    client.send(request("HEAD /x"))
    assert client.take().startswith(b"HTTP/1.1 500 ")


ODD = ("early", "text", "late", "own", "request", "to bare", "to early", "to text", "content",
       "answer", "longer")  # fmt: skip


@pytest.mark.parametrize("does", ODD)
def test_an_answer_that_is_none_is_a_filters_failure_and_harms_no_other(
    make: Any, does: str
) -> None:
    routes = (
        RouteSpec(path_prefix="/odd", service="s", filters=(spec("Odd", does=does),)),
        RouteSpec(service="s"),
    )
    wire = make(routes=routes)
    client = wire.client()
    client.send(request("POST /odd", "Content-Length: 2", body=b"hi") + GET)
    asks = does in ("early", "text", "late", "own", "request")
    a = wire.connected()
    if not asks:
        a.take()
        a.send(OK)
    wire.settle()
    told = client.take()
    assert told.startswith(b"HTTP/1.1 500 ")
    assert b'details="filter_failed"' in told
    a = a if asks else wire.connected()
    assert a.take().startswith(b"GET ")
    a.send(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")


def test_an_answer_without_content_has_none_whatever_a_filter_says(make: Any) -> None:
    wire = filtered(make, spec("Odd", does="bare"))
    client = wire.client()
    client.send(GET)
    head, _, content = client.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204 ")
    assert content == b""


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\0", "Łęk"])
def test_a_value_that_no_field_has_is_refused(value: str) -> None:
    headers = Headers(b"X-A: 1\r\n")
    with pytest.raises(ValueError, match=r"field value|latin-1"):
        headers.add("X-A", value)
    assert headers.items() == [("X-A", "1")]


@pytest.mark.parametrize("waits", [False, True])
def test_content_is_changed_both_ways(make: Any, waits: bool) -> None:
    wait = [scripted("w", "request", "wait")] if waits else []
    wire = filtered(make, *wait, spec("Rewriting", shout=True))
    client = wire.client()
    client.send(request("POST /x", "Content-Length: 6", body=b"abc"))
    wire.advance(1)
    a = wire.connected()
    client.send(b"def")
    a.expect(forwarded("POST /x", CHUNKED, body=b"3\r\nABC\r\n4\r\nDEF!\r\n0\r\n\r\n"))
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    a.send(b"cd")
    head, _, content = client.take().partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head
    assert b"Content-Length" not in head
    assert content == b"2\r\nAB\r\n3\r\nCD?\r\n0\r\n\r\n"


def test_content_that_is_here_whole_has_its_new_length(make: Any) -> None:
    wire = filtered(make, spec("Rewriting", shout=True))
    client, a = asked(wire)
    a.send(OK)
    head, _, content = client.take().partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: 3\r\n" in head
    assert content == b"HI?"


def test_a_reload_changes_filters_of_connections_that_are_open(make: Any) -> None:
    wire = filtered(make, scripted("f"))
    client, a = asked(wire)
    answered(client, a)
    deny = spec("deny", networks=["0.0.0.0/0"])
    routes = (RouteSpec(path_prefix="/", service="s"),)
    listener = replace(ListenerSettings(), filters=(deny,))
    wire.configure(routes, {"s": ServiceSettings()}, listener)
    client.send(GET)
    client.expect_problem(403, "denied")
    wire.configure(routes, {"s": ServiceSettings()})
    client.send(GET)
    a.take()
    answered(client, a)
    wire.advance(61)


def test_more_hooks_than_may_wait_are_refused(make: Any) -> None:
    wire = filtered(make, scripted("f", "request", "hang"), scripted("g"))
    filters = wire.worker.services.filters
    waiting = [wire.loop.create_future() for _ in range(1001)]
    one, other = filters.of_route(0, "s")
    started = [filters.spawn(one, future) is not None for future in waiting]
    assert started == [True] * 1000 + [False]
    client = wire.client()
    client.send(GET)
    client.expect_problem(503, "filters_busy")
    assert list(wire.worker.counters.filters.values()) == [{"filters_busy": 1}]
    assert filters.spawn(other, waiting[-1]) is not None  # Each has room of its own.
    for future in waiting:
        future.cancel()
    wire.settle()
    client.send(GET)
    client.expect_nothing()


def test_a_filter_that_cannot_open_leaves_the_configuration_as_it_was(
    make: Any, heard: list[str]
) -> None:
    wire = filtered(make, scripted("f", "close"))
    client, a = asked(wire)
    answered(client, a)
    bad = (scripted("g", "close"), scripted("h", "open"))
    wire.configure((RouteSpec(service="s", filters=bad),), {"s": ServiceSettings()})
    assert heard[-2:] == ["g.close", "h.close"]
    client.send(GET)
    a.take()
    answered(client, a)
    assert "f.close" not in heard


def test_plugins_are_imported_or_leave_the_configuration_as_it_was(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugged_by_a_test.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    wire = filtered(make)
    client, a = asked(wire)
    answered(client, a)
    names = "plugged_by_a_test", "plugged_by_no_test"
    wire.worker.on_message(Configure(WorkerConfig(plugins=names)))
    assert sys.modules.pop(names[0]).__file__ == str(tmp_path / "plugged_by_a_test.py")
    client.send(GET)
    a.take()
    answered(client, a)


def test_a_filter_that_is_no_more_is_closed_after_its_last_requests(
    make: Any, heard: list[str]
) -> None:
    wire = filtered(make, scripted("f", "close"))
    wire.configure((RouteSpec(service="s"),), {"s": ServiceSettings()})
    wire.advance(59)
    assert heard == []
    wire.advance(2)
    assert heard == ["f.close"]
