"""The same requests to Fairlead and to a peer that is configured for the same: where the standard,
or custom, says what is right, both do it. nginx, HAProxy, Caddy and Traefik; without them these
tests are skipped, and so is each for which a peer has nothing of its own.
"""

from __future__ import annotations

import base64
import gzip
import hmac
import json
import math
from collections.abc import AsyncIterator
from time import time
from typing import Any

import jwt
import pytest
import pytest_asyncio

from tests.e2e.peer_configs import CONFIGURATIONS, program_of
from tests.e2e.peers import (
    KEY,
    OTHER_KEY,
    PAGE,
    PEM,
    PROSE,
    SHARE,
    SORRY,
    Beside,
    side_by_side,
)
from tests.e2e.raw_http import Answer, Client, ask
from tests.support.processes import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CONFIGURATIONS)
async def beside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Beside]:
    peer: str = request.param
    program = program_of(peer)
    if program is None:
        pytest.skip(f"{peer} is not installed")
    async with side_by_side(peer, program, tmp_path_factory.mktemp(peer)) as both:
        yield both


def told(answer: Answer) -> dict[str, Any]:
    """What the instance was told."""
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def test_a_redirect_keeps_path_and_query(beside: Beside) -> None:
    for answer in await beside.both("/old/x?a=b%20c"):
        assert answer.status == 301
        assert answer["Location"] == "https://new.example/old/x?a=b%20c"


async def test_fields_are_edited_on_both_ways(beside: Beside) -> None:
    for answer in await beside.both("/edit", [("X-Debug", "1"), ("X-Env", "mine")]):
        fields = told(answer)["fields"]
        assert [value for name, value in fields if name == "x-env"] == ["prod"]
        assert "x-debug" not in dict(fields)
        assert answer["X-Frame-Options"] == "DENY"


async def test_a_prefix_is_stripped_and_put_back_in_answers(beside: Beside) -> None:
    for answer in await beside.both("/app/x/y?z=1"):
        assert told(answer)["path"] == "/x/y?z=1"
    answers = await beside.both("/app/login")
    for answer in answers[:1] if beside.peer == "traefik" else answers:  # Which puts nothing back.
        assert answer.status == 302
        assert answer["Location"] == "/app/in?a=b"
        cookie = (answer["Set-Cookie"] or "").lower().replace(" ", "").split(";")
        assert cookie[0] == "sid=1"
        assert "httponly" in cookie
        assert {"path=/app", "path=/app/"} & {*cookie}


@pytest.mark.parametrize(
    ("path", "rewritten"),
    [("/book/12/x/y", "/v2/x/y/12"), ("/book/1/z?a=b%20c&d", "/v2/z/1?a=b%20c&d")],
)
async def test_a_path_is_rewritten_from_its_parts(
    beside: Beside, path: str, rewritten: str
) -> None:
    for answer in await beside.both(path):
        assert told(answer)["path"] == rewritten


@pytest.mark.parametrize(
    ("said", "status"),
    [("ann:sesame", 200), ("ann:wrong", 401), ("eve:sesame", 401), ("ann", 401), (None, 401)],
)
async def test_a_password_is_asked_for(beside: Beside, said: str | None, status: int) -> None:
    proof = [] if said is None else [
        ("Authorization", "Basic " + base64.b64encode(said.encode()).decode())
    ]  # fmt: skip
    for answer in await beside.both("/staff/x", proof):
        assert answer.status == status
        challenge = answer["WWW-Authenticate"] or ""
        assert (status == 401) == challenge.startswith("Basic realm=")
        assert status == 200 or "Staff" in challenge


@pytest.mark.parametrize(
    "accept", ["gzip", "br, gzip", "gzip;q=0.5", "gzip;q=0", "identity", "GZIP", None]
)
async def test_an_answer_is_compressed_for_who_takes_it(beside: Beside, accept: str | None) -> None:
    fields = [] if accept is None else [("Accept-Encoding", accept)]
    coded = accept is not None and "gzip" in accept.lower() and not accept.endswith("q=0")
    ours, theirs = await beside.both("/prose", fields)
    # Codings are named in any case (RFC 9110 section 8.4.1), and Traefik knows one only.
    for answer in (ours,) if (beside.peer, accept) == ("traefik", "GZIP") else (ours, theirs):
        assert answer["Content-Encoding"] == ("gzip" if coded else None), accept
        assert (gzip.decompress(answer.body) if coded else answer.body) == PROSE
        # RFC 9110 section 8.8.3.3: what is coded is not the same to the byte. Caddy gives it a tag
        # of its own, and Traefik that of the other.
        strong = {"caddy": '"e1-gzip"', "traefik": '"e1"'} if answer is theirs else {}
        assert answer["ETag"] == (strong.get(beside.peer, 'W/"e1"') if coded else '"e1"')
        if coded:
            assert "accept-encoding" in (answer["Vary"] or "").lower()


async def test_an_answer_that_is_coded_already_stays_as_it_is(beside: Beside) -> None:
    for answer in await beside.both("/prose/coded", [("Accept-Encoding", "gzip, br")]):
        assert answer["Content-Encoding"] == "br"
        assert answer.body == PROSE


async def test_an_answer_that_must_not_be_transformed_is_not(beside: Beside) -> None:
    ours, theirs = await beside.both("/prose/kept", [("Accept-Encoding", "gzip")])
    assert ours["Content-Encoding"] is None
    # RFC 9110 section 7.7 says so, and two do not obey.
    assert theirs["Content-Encoding"] == ("gzip" if beside.peer in ("nginx", "traefik") else None)


async def test_the_page_for_faults_is_shown(beside: Beside) -> None:
    for answer in await beside.both("/down"):
        assert answer.status in (502, 503)
        assert answer.body == SORRY.encode()
        assert (answer["Content-Type"] or "").startswith("text/html")


async def test_a_site_that_is_closed_says_when_to_come_back(beside: Beside) -> None:
    if beside.peer == "traefik":
        pytest.skip("Traefik has no answers of its own")
    for answer in await beside.both("/closed"):
        assert (answer.status, answer["Retry-After"]) == (503, "3600")
        assert answer.body.strip() == SORRY.encode().strip()


async def test_a_split_has_the_shares_that_it_is_given(beside: Beside) -> None:
    count = 400
    for port in (beside.ours, beside.theirs):
        answers = [await ask(port, "GET", "/split", []) for _ in range(count)]
        second = sum(told(one)["name"] == "two" for one in answers)
        # Five times the standard deviation: once in two million runs.
        bound = 5 * math.sqrt(count * SHARE * (1 - SHARE))
        assert abs(second - count * SHARE) < bound


async def test_a_client_stays_with_its_instance(beside: Beside) -> None:
    if beside.peer == "nginx":
        pytest.skip("nginx has that in its commercial edition alone")
    for port in (beside.ours, beside.theirs):
        first = await ask(port, "GET", "/sticky", [])
        cookie = (first["Set-Cookie"] or "").partition(";")[0]
        assert cookie
        for _ in range(10):
            again = await ask(port, "GET", "/sticky", [("Cookie", cookie)])
            assert told(again)["name"] == told(first)["name"]
            assert again["Set-Cookie"] is None
        # One that names nobody is replaced.
        name = cookie.partition("=")[0]
        anew = await ask(port, "GET", "/sticky", [("Cookie", f"{name}=nobody")])
        assert anew.status == 200
        assert (anew["Set-Cookie"] or "").startswith(f"{name}=")


async def test_a_client_that_asks_too_often_is_refused(beside: Beside) -> None:
    if beside.peer == "caddy":
        pytest.skip("Caddy has that in a module of somebody else's alone")
    for port in (beside.ours, beside.theirs):
        statuses = [(await ask(port, "GET", "/limit", [])).status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]


async def test_another_server_decides(beside: Beside) -> None:
    if beside.peer in ("nginx", "haproxy"):
        pytest.skip("a module or a script of their own is needed for it")
    ann = ("Authorization", "Bearer ann")
    for answer in await beside.both("/asked/x", [ann, ("X-User", "root")]):
        assert answer.status == 200
        fields = told(answer)["fields"]
        assert [value for name, value in fields if name == "x-user"] == ["ann"]
    for answer in await beside.both("/asked/x", [("X-User", "root")]):
        assert (answer.status, answer.body) == (401, b"who?")


PREFLIGHT = [
    ("Access-Control-Request-Method", "PUT"),
    ("Access-Control-Request-Headers", "x-token"),
]


async def test_pages_of_one_other_origin_may_read_answers(beside: Beside) -> None:
    if beside.peer != "traefik":
        pytest.skip("Traefik alone has a word for it; in the others somebody writes the fields")
    for origin, allowed in (
        (PAGE, PAGE),
        ("https://evil.example", None),
        (PAGE + ".evil.example", None),
    ):
        said = ("Origin", origin)
        before = len(beside.one.calls)
        for answer in await beside.both("/pages", [said, *PREFLIGHT], "OPTIONS"):
            assert answer.status in (200, 204)
            assert answer["Access-Control-Allow-Origin"] == allowed
            if allowed:
                assert answer["Access-Control-Allow-Credentials"] == "true"
                assert answer["Access-Control-Max-Age"] == "600"
                assert (answer["Access-Control-Allow-Headers"] or "").lower() == "x-token"
                methods = (answer["Access-Control-Allow-Methods"] or "").replace(" ", "")
                assert {*methods.split(",")} == {"GET", "PUT"}
        assert len(beside.one.calls) == before
        for answer in await beside.both("/pages", [said]):
            assert told(answer)["name"] == "one"
            assert answer["Access-Control-Allow-Origin"] == allowed
            if allowed:
                assert answer["Access-Control-Expose-Headers"] == "X-Total"
            assert "origin" in (answer["Vary"] or "").lower()


@pytest.mark.parametrize(("path", "status"), [("/near", 200), ("/far", 403), ("/banned", 403)])
async def test_clients_are_let_in_by_their_address_and_not_by_what_they_say_of_it(
    beside: Beside, path: str, status: int
) -> None:
    if (beside.peer, path) == ("traefik", "/banned"):
        pytest.skip("Traefik has a list of those that may alone")
    for fields in [], [("X-Forwarded-For", "10.1.2.3")], [("X-Real-IP", "10.1.2.3")]:
        for answer in await beside.both(path, fields):
            assert answer.status == status


def unsigned(claims: dict[str, Any]) -> str:
    """A token that says that it needs no signature."""
    return jwt.encode(claims, None, "none")


def signed_by_what_is_public(claims: dict[str, Any]) -> str:
    """A token whose secret is the public key: for who takes the algorithm from the token."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    code = hmac.digest(PEM, head + b"." + body, "sha256")
    return b".".join((head, body, base64.urlsafe_b64encode(code).rstrip(b"="))).decode()


async def test_a_token_is_believed_by_its_signature_and_its_time(beside: Beside) -> None:
    if beside.peer != "haproxy":
        pytest.skip("HAProxy alone has that, in its free edition and without a module")
    claims = {"sub": "ann", "exp": int(time()) + 3600}
    late = {**claims, "exp": int(time()) - 3600}
    good = jwt.encode(claims, KEY, "ES256")
    for answer in await beside.both(
        "/token", [("Authorization", f"Bearer {good}"), ("X-User", "root")]
    ):
        assert answer.status == 200
        assert [value for name, value in told(answer)["fields"] if name == "x-user"] == ["ann"]
    for token in (
        jwt.encode(late, KEY, "ES256"),
        jwt.encode(claims, OTHER_KEY, "ES256"),
        good[:-4] + "AAAA",
        unsigned(claims),
        signed_by_what_is_public(claims),
        "",
    ):
        for answer in await beside.both("/token", [("Authorization", f"Bearer {token}")]):
            assert answer.status == 401, token


async def test_a_mirror_gets_a_copy(beside: Beside) -> None:
    if beside.peer not in ("nginx", "traefik"):
        pytest.skip("HAProxy needs an agent for it, and Caddy a module of somebody else's")
    for number, port in enumerate((beside.ours, beside.theirs)):
        path = f"/copied/{number}?x=1"
        assert told(await ask(port, "POST", path, [], b"body"))["name"] == "one"

        def copies(path: str = path) -> list[tuple[str, bytes]]:
            return [(call.method, call.body) for call in beside.two.calls if call.target == path]

        assert await eventually(copies, what=path) == [("POST", b"body")]


async def test_an_instance_is_told_whose_request_it_is(beside: Beside) -> None:
    if beside.peer not in ("haproxy", "caddy"):
        pytest.skip("nginx and Traefik say it of connections of TCP alone")
    for port in (beside.ours, beside.theirs):
        async with await Client.connect(port) as client:
            answer = await client.ask("GET", "/spoken")
            line = announced(client, port)
            if (beside.peer, port) == ("caddy", beside.theirs):  # It tells the address alone.
                line = b"PROXY TCP4 127.0.0.1 0.0.0.0 0 0\r\n"
            assert answer.body == line


async def test_a_connection_is_passed_on_with_whose_it_is(beside: Beside) -> None:
    if beside.peer not in ("haproxy", "traefik"):
        pytest.skip(
            "Caddy has that in a module of somebody else's, nginx in one that may be missing"
        )
    for port in beside.tcp:
        async with await Client.connect(port) as client:
            line = announced(client, port)
            assert await client.exactly(len(line)) == line  # Before the client has said anything.
            await client.send(b"\0\xff\r\n")
            assert await client.exactly(4) == b"\0\xff\r\n"
            client.half_close()
            # Traefik waits for a tenth of a second then, and no longer.
            if (beside.peer, port) != ("traefik", beside.tcp[1]):
                assert await client.rest() == b"bye"


def announced(client: Client, port: int) -> bytes:
    """The line of the PROXY protocol about a client of a port."""
    own = client.writer.get_extra_info("sockname")[1]
    return f"PROXY TCP4 127.0.0.1 127.0.0.1 {own} {port}\r\n".encode()
