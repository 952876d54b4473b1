"""The product's own filters, each as far as an exchange on the wire shows it."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from struct import pack
from typing import Any

import bcrypt
import pytest
from argon2 import PasswordHasher

from proxy.engine.resilience.limits import SECRET
from proxy.settings.filters import FilterSpec
from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec
from tests.support.filters import spec
from tests.support.wire import forwarded, request
from tests.wire.scenes import CHUNKED, GET, TRUSTING, answered, asked

ANYBODY = ["0.0.0.0/0"]


def filtered(make: Any, *filters: FilterSpec, **options: Any) -> Any:
    """A wire whose only route has these filters."""
    return make(routes=(RouteSpec(path_prefix="/", service="s", filters=filters),), **options)


def head_of(client: Any) -> tuple[bytes, bytes]:
    """Head, with the end of its last line, and content of what the client got."""
    head, _, content = client.take().partition(b"\r\n\r\n")
    return head + b"\r\n", content


# -- headers


def test_fields_are_set_added_and_removed_both_ways(make: Any) -> None:
    changes = {"set": {"X-A": "new"}, "add": {"X-B": "2"}, "remove": ["X-Gone"]}
    wire = filtered(make, spec("headers", request=changes, response=changes))
    client = wire.client()
    client.send(request("GET /x", "x-a: old", "X-a: older", "X-B: 1", "x-gone: 1", "X.Gone: 2"))
    a = wire.connected()
    a.expect(forwarded("GET /x", "X-B: 1", "X-A: new", "X-B: 2"))
    a.send(b"HTTP/1.1 200 OK\r\nx-a: 1\r\nX-B: 1\r\nX-Gone: 1\r\nContent-Length: 0\r\n\r\n")
    head, _ = head_of(client)
    assert b"X-B: 1\r\nX-A: new\r\nX-B: 2\r\n" in head
    assert b"Gone" not in head
    assert b"x-a" not in head


def test_a_message_that_is_not_changed_shares_its_fields_with_others(make: Any) -> None:
    wire = filtered(make, spec("headers", request={"remove": ["X-Gone"]}))
    for gone in ("X-Gone: 1", "X-Kept: 1", "X-Gone: 1"):
        client, a = wire.client(), None
        client.send(request("GET /x", gone))
        a = wire.connected()
        a.expect(forwarded("GET /x", *([gone] if "Kept" in gone else [])))
        answered(client, a)
        a.eof()


# -- allow, deny


@pytest.mark.parametrize(
    ("kind", "networks", "passes"),
    [
        ("allow", ["192.0.2.0/24"], True),
        ("allow", ["198.51.100.0/24", "192.0.2.7/32"], True),
        ("allow", ["198.51.100.0/24", "::/0"], False),
        ("allow", [], False),
        ("deny", ["192.0.2.7/32"], False),
        ("deny", ["198.51.100.0/24"], True),
    ],
)
def test_clients_are_told_by_their_address(
    make: Any, kind: str, networks: list[str], passes: bool
) -> None:
    wire = filtered(make, spec(kind, networks=networks))
    client = wire.client()
    client.send(GET)
    if passes:
        a = wire.connected()
        a.take()
        answered(client, a)
    else:
        client.expect_problem(403, "denied")


@pytest.mark.parametrize(("listener", "passes"), [(ListenerSettings(), False), (TRUSTING, True)])
def test_only_a_trusted_proxy_speaks_for_another_address(
    make: Any, listener: ListenerSettings, passes: bool
) -> None:
    wire = filtered(make, spec("allow", networks=["10.0.0.0/8"]), listener=listener)
    client = wire.client()
    client.send(request("GET /x", "X-Forwarded-For: 10.1.2.3"))
    if passes:
        a = wire.connected()
        a.take()
        answered(client, a)
    else:
        client.expect_problem(403, "denied")


# -- rate_limit


def test_requests_beyond_a_rate_are_refused_for_each_key_and_filter(make: Any) -> None:
    def limit(name: str) -> FilterSpec:
        return spec("rate_limit", name, requests=1, per=10.0, burst=2, key="header:X-User")

    routes = tuple(
        RouteSpec(path_prefix=f"/{name}", service="s", filters=(limit(name),)) for name in "ab"
    )
    wire = make(routes=routes)
    client, a = wire.client(), None

    def get(path: str, user: str, refused: bool = False) -> None:
        nonlocal a
        client.send(request(f"GET {path}", f"X-User: {user}"))
        if refused:
            assert b"\r\nRetry-After: 10\r\n" in client.expect_problem(429, "rate_limited")
            return
        a = a or wire.connected()
        a.take()
        answered(client, a)

    get("/a", "ann")
    get("/a", "ann")
    get("/a", "ann", refused=True)
    get("/a", "bob")
    get("/b", "ann")
    wire.advance(10)
    a = None
    get("/a", "ann")


def test_a_key_without_a_place_in_the_table_is_refused(make: Any) -> None:
    wire = filtered(make, spec("rate_limit", requests=100, per=1.0))
    table = wire.board.buckets[SECRET:]
    cell = pack("Qd", 7, wire.loop.time() + 60)  # Somebody else's, and far from full.
    table[:] = cell * (len(table) // len(cell))
    client = wire.client()
    client.send(GET)
    assert b"\r\nRetry-After: 60\r\n" in client.expect_problem(429, "rate_table_full")
    wire.expect_no_dial()


# -- body_limit


@pytest.mark.parametrize("size", [4, 5])
def test_a_body_that_is_too_long_is_refused_as_soon_as_that_is_known(make: Any, size: int) -> None:
    wire = filtered(make, spec("body_limit", size=4))
    client = wire.client()
    client.send(request("POST /x", f"Content-Length: {size}"))
    if size == 5:
        client.expect_problem(413, "body_too_large", closing=True)
        return
    client.send(b"abcd")
    a = wire.connected()
    a.expect(forwarded("POST /x", "Content-Length: 4", body=b"abcd"))
    answered(client, a)


def test_a_body_in_chunks_is_counted(make: Any) -> None:
    wire = filtered(make, spec("body_limit", size=4))
    client = wire.client()
    client.send(request("POST /x", CHUNKED, body=b"4\r\nabcd\r\n"))
    a = wire.connected()
    a.take()
    client.send(b"1\r\ne\r\n")
    client.expect_problem(413, "body_too_large", closing=True)
    assert a.closed


# -- maintenance, error_pages


@pytest.mark.parametrize("name", ["back.html", ""])
def test_maintenance_has_a_page_for_all_but_some(make: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "back.html").write_text("<p>at noon")
    file = str(tmp_path / name) if name else ""
    closed = spec("maintenance", file=file, allow=["198.51.100.0/24"], retry_after=3600.0)
    wire = filtered(make, closed)
    client = wire.client()
    client.send(GET)
    head, content = head_of(client)
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 3600\r\n" in head
    assert (b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head) == bool(name)
    assert content == (b"<p>at noon" if name else b"Down for maintenance")
    other = wire.client(("198.51.100.1", 1))
    other.send(GET)
    a = wire.connected()
    a.take()
    answered(other, a)


def test_a_page_that_changes_or_goes_away_is_followed(make: Any, tmp_path: Path) -> None:
    page = tmp_path / "back.html"
    page.write_text("one")
    wire = filtered(make, spec("maintenance", file=str(page)))
    client = wire.client()
    for change, expected in ((None, b"one"), ("two", b"two"), ("", b"two"), ("three", b"three")):
        if change:
            page.write_text(change)
        elif change is not None:
            page.unlink()
        wire.advance(2.5)
        client.send(GET)
        assert head_of(client)[1] == expected


def test_an_error_page_is_for_the_proxys_own_answers(make: Any, tmp_path: Path) -> None:
    page = tmp_path / "sorry.html"
    page.write_text("<p>sorry")
    wire = filtered(make, spec("error_pages", statuses=[502], file=str(page)))
    client, a = asked(wire)
    a.send(b"HTTP/1.1 502 Bad\r\nContent-Length: 3\r\n\r\nbad")
    assert head_of(client)[1] == b"bad"
    a.eof()
    wire.network.refuse(wire.address("a"))
    client.send(GET)
    head, content = head_of(client)
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b'details="connect_refused"' in head
    assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head
    assert content == b"<p>sorry"


def test_without_its_page_an_answer_is_as_it_was(make: Any, tmp_path: Path) -> None:
    page = spec("error_pages", statuses=[502], file=str(tmp_path / "gone.html"))
    wire = filtered(make, page)
    wire.network.refuse(wire.address("a"))
    client = wire.client()
    client.send(GET)
    client.expect_problem(502, "connect_refused")


# -- basic_auth

ANN = "ann:" + bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
ZOE = "Zoë Łęk:" + ANN.removeprefix("ann:")
BOB = "bob:" + PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("b:o:b")


def basic(user: str, scheme: str = "Basic") -> str:
    return f"Authorization: {scheme} {b64encode(user.encode()).decode()}"


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ([basic("ann:right")], "ann"),
        ([basic("ann:right", "bAsIc")], "ann"),
        ([basic("bob:b:o:b")], "bob"),
        ([basic("Zoë Łęk:right")], "Zoë Łęk"),
        ([basic("ann:wrong")], ""),
        ([basic("ann:")], ""),
        ([basic("bob:right")], ""),
        ([basic("eve:right")], ""),
        ([basic(":right")], ""),
        ([basic("ann")], ""),
        ([basic("ann:right\0")], ""),
        ([basic("ann:right"), basic("ann:wrong")], ""),
        (["Authorization: Basic !!!"], ""),
        (["Authorization: Bearer x"], ""),
        ([], ""),
    ],
)
def test_users_are_asked_for_a_password(make: Any, fields: list[str], user: str) -> None:
    auth = spec("basic_auth", users=[ANN, BOB, ZOE], header="X-Login")
    wire = filtered(make, auth)
    client = wire.client()
    for _ in range(2):  # Computed, and remembered.
        client.send(request("GET /x", *fields, "X-Login: root", "X.Login: root", "X_Login: root"))
        if not user:
            head = client.expect_problem(401, "unauthorised")
            assert b'\r\nWWW-Authenticate: Basic realm="Restricted", charset="UTF-8"\r\n' in head
            continue
        a = wire.connected()
        got = a.take().lower()
        assert b"\r\nx-login: %b\r\n" % user.encode().lower() in got
        assert b"root" not in got
        answered(client, a)
        a.eof()
    if not user:
        wire.expect_no_dial()


@pytest.mark.parametrize("user", ["ann:right", "bob:b:o:b"])
def test_a_password_is_computed_beside_the_loop_and_once(make: Any, user: str) -> None:
    routes = (
        RouteSpec(path_prefix="/open", service="s"),
        RouteSpec(service="s", filters=(spec("basic_auth", users=[ANN, BOB]),)),
    )
    wire = make(routes=routes)
    threads: list[Any] = []
    at_once = wire.loop.run_in_executor

    def later(executor: object, work: Any, *arguments: Any) -> Any:
        if executor is None:  # A context of TLS.
            return at_once(executor, work, *arguments)
        threads.append((wire.loop.create_future(), work))
        return threads[-1][0]

    wire.loop.run_in_executor = later

    def computed() -> None:
        future, work = threads.pop()
        future.set_result(work())
        wire.settle()

    client, other = wire.client(), wire.client()
    client.send(request("GET /x", basic(user)))
    [_] = threads
    for _ in range(3):  # The loop goes on.
        other.send(request("GET /open"))
        a = wire.connected()
        a.take()
        answered(other, a)
        a.eof()
    client.expect_nothing()
    computed()
    for _ in range(2):
        a = wire.connected()
        a.take()
        answered(client, a)
        a.eof()
        client.send(request("GET /x", basic(user)))
        assert not threads  # It is remembered.
    wire.connected().take()
    other.send(request("GET /x", basic("ann:wrong")))
    for _ in range(2):
        computed()
        other.expect_problem(401, "unauthorised")
        other.send(request("GET /x", basic("ann:wrong")))
    computed()
    other.expect_problem(401, "unauthorised")


def test_no_trick_sets_or_takes_away_who_a_client_is(make: Any) -> None:
    wire = filtered(make, spec("basic_auth", users=[ANN], header="X-Login"))
    client = wire.client()
    trailers = b"".join(b"%b: root\r\n" % name for name in (b"X-Login", b"x.login", b"X_LOGIN"))
    client.send(
        request(
            "POST /x", basic("ann:right"), "Connection: X-Login, TE", "TE: trailers", CHUNKED,
            body=b"0\r\n" + trailers + b"X-Sum: 1\r\n\r\n",
        )
    )  # fmt: skip
    a = wire.connected()
    got = a.take()
    assert got.lower().count(b"login") == got.count(b"\r\nX-Login: ann\r\n") == 1
    assert b"root" not in got
    assert got.endswith(b"\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")
    answered(client, a)


def test_a_file_of_users_is_followed_and_the_last_good_one_stays(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "users"
    wire = filtered(make, spec("basic_auth", users_file=str(file)))
    client = wire.client()
    ask = request("GET /x", basic("ann:right"))
    for content, status in (
        (None, 503),
        (f"# staff\n{ANN}\n", 200),
        ("nonsense", 200),
        (f"{BOB}\n", 401),
    ):
        if content is not None:
            file.write_text(content)
        wire.advance(2.5)
        client.send(ask)
        if status == 200:
            a = wire.connected()
            a.take()
            answered(client, a)
            a.eof()
        else:
            client.expect_problem(status, "auth_unavailable" if status == 503 else "unauthorised")


# -- cors

WEB = {"origins": ["https://app.example.com", "https://*.example.org"], "credentials": True}
PREFLIGHT = ("Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-token")
BUSY = (
    b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Cookie\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://APP.example.com", True),
        ("https://a.example.org", True),
        ("https://a.b.example.org", True),
        ("https://example.org", False),
        ("https://evilexample.org", False),
        ("https://app.example.com.evil.org", False),
        ("https://a.example.org.evil.org", False),
        ("https://a.example.org:444", False),
        ("https://appxexample.com", False),
        ("http://app.example.com", False),
        ("https://evil.org/.example.org", False),
        ("https://user@a.example.org", False),
        ("null", False),
        ("*", False),
    ],
)
def test_pages_of_these_origins_may_read_answers_and_no_others(
    make: Any, origin: str, allowed: bool
) -> None:
    wire = filtered(make, spec("cors", **WEB, methods=["PUT"], headers=["X-Token"], expose=["X-N"]))
    client, a = wire.client(), None
    client.send(request("GET /x", f"Origin: {origin}"))
    a = wire.connected()
    a.take()
    a.send(BUSY)
    head, _ = head_of(client)
    said = f"\r\nAccess-Control-Allow-Origin: {origin}\r\n".encode() in head
    assert said == allowed
    assert head.count(b"Allow-Origin") == allowed
    assert (b"\r\nAccess-Control-Allow-Credentials: true\r\n" in head) == allowed
    assert (b"\r\nAccess-Control-Expose-Headers: X-N\r\n" in head) == allowed
    assert b"\r\nVary: Cookie\r\n" in head
    assert b"\r\nVary: Origin\r\n" in head
    client.send(request("OPTIONS /x", f"Origin: {origin}", *PREFLIGHT))
    head, _ = head_of(client)
    assert head.startswith(b"HTTP/1.1 204 ")
    assert (b"\r\nAccess-Control-Allow-Headers: X-Token\r\n" in head) == allowed
    assert (b"\r\nAccess-Control-Allow-Methods: PUT\r\n" in head) == allowed
    a.expect_nothing()


def test_a_method_that_is_not_permitted_and_options_of_other_kinds(make: Any) -> None:
    wire = filtered(make, spec("cors", origins=["*"], headers=["*"], max_age=60.0))
    client = wire.client()
    client.send(request("OPTIONS /x", "Origin: https://a.b", *PREFLIGHT))
    assert b"Allow-Origin" not in head_of(client)[0]
    ask = PREFLIGHT[0].replace("PUT", "POST"), PREFLIGHT[1]
    client.send(request("OPTIONS /x", "Origin: https://a.b", *ask))
    head, _ = head_of(client)
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in head
    assert b"\r\nAccess-Control-Allow-Headers: x-token\r\n" in head
    assert b"\r\nAccess-Control-Max-Age: 60\r\n" in head
    client.send(request("OPTIONS /x", "Origin: https://a.b"))
    a = wire.connected()
    a.take()
    a.send(BUSY)
    assert head_of(client)[0].count(b"Vary") == 1


def test_a_refusal_of_another_filter_can_be_read_by_pages(make: Any) -> None:
    web = spec("cors", **WEB)
    wire = filtered(make, web, spec("rate_limit", requests=1, per=60.0, burst=None, key="host"))
    client, a = asked(wire)
    answered_with = b"\r\nAccess-Control-Allow-Origin: https://app.example.com\r\n"
    a.send(BUSY)
    client.take()
    client.send(request("GET /x", "Origin: https://app.example.com"))
    assert answered_with in client.expect_problem(429, "rate_limited")
