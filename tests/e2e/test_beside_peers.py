"""The same requests to Fairlead and to a peer that is configured for the same: where the standard,
or custom, says what is right, both do it. nginx, HAProxy, Caddy and Traefik; without them these
tests are skipped.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import pytest_asyncio

from tests.e2e.origin import Call, Origin, origins
from tests.e2e.peer_configs import CONFIGURATIONS, command_of, program_of
from tests.e2e.raw_http import Answer, ask
from tests.e2e.running import RunningProxy
from tests.support.processes import AwaitedProcess, eventually, free_port, listens

pytestmark = pytest.mark.asyncio(loop_scope="module")

HASH = bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()
SORRY = "<p>Sorry.\n"
PROSE = b"All work and no play makes Jack a dull boy. " * 100
SHARE = 0.2


async def script(call: Call) -> None:
    """An instance of all that is asked here."""
    path = call.target.partition("?")[0]
    if path == "/sorry.html":
        await call.reply(SORRY.encode(), 200, [("Content-Type", "text/html")])
        return
    if path == "/verify":
        known = call.head.get("Authorization") == "Bearer ann"
        await call.reply(b"" if known else b"who?", 200 if known else 401, [("X-User", "ann")])
        return
    if path.endswith("/login"):
        fields = [("Location", "/in?a=b"), ("Set-Cookie", "sid=1; Path=/; HttpOnly")]
        await call.reply(b"", 302, fields)
    elif "/prose" in path:
        fields = [("Content-Type", "text/plain"), ("ETag", '"e1"')]
        if path.endswith("/kept"):
            fields.append(("Cache-Control", "no-transform"))
        if path.endswith("/coded"):
            fields.append(("Content-Encoding", "br"))
        await call.reply(PROSE, 200, fields)
    else:
        told = {
            "name": call.origin.name,
            "path": call.target,
            "fields": [(name.lower(), value) for name, value in call.head.fields],
        }
        await call.reply(json.dumps(told).encode(), 200, [("Content-Type", "application/json")])


def fairlead(one: Origin, two: Origin, directory: Path, dead: int) -> dict[str, Any]:
    def to(*instances: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"instances": list(instances), **more}

    nobody = {"id": "dead", "address": "127.0.0.1", "port": dead}
    pages = {"error_pages": {"statuses": [502, 503, 504], "file": str(directory / "sorry.html")}}
    limit = {"rate_limit": {"requests": 1, "per": "60s", "burst": 3}}
    return {
        "services": {
            "one": to(one.instance),
            "two": to(two.instance),
            "dead": to(nobody),
            "both": to(one.instance, two.instance, sticky={"cookie": "fl"}),
        },
        "routes": [
            {"path_prefix": "/old", "redirect": {"to": "https://new.example{path}", "status": 301}},
            {
                "path_prefix": "/edit",
                "service": "one",
                "filters": [
                    {
                        "headers": {
                            "request": {"set": {"X-Env": "prod"}, "remove": ["X-Debug"]},
                            "response": {"add": {"X-Frame-Options": "DENY"}},
                        }
                    }
                ],
            },
            {
                "path_prefix": "/app",
                "strip_prefix": True,
                "rewrite_responses": True,
                "service": "one",
            },
            {
                "path_prefix": "/staff",
                "service": "one",
                "filters": [{"basic_auth": {"users": [f"ann:{HASH}"], "realm": "Staff"}}],
            },
            {
                "path_prefix": "/prose",
                "service": "one",
                "filters": [{"compress": {"types": ["text/plain"], "encodings": ["gzip"]}}],
            },
            {"path_prefix": "/down", "service": "dead", "filters": [pages]},
            {
                "path_prefix": "/closed",
                "respond": {"status": 503, "body": SORRY, "headers": {"Retry-After": "3600"}},
            },
            {
                "path_prefix": "/split",
                "split": [{"service": "one", "weight": 80}, {"service": "two", "weight": 20}],
            },
            {"path_prefix": "/sticky", "service": "both"},
            {
                "path_prefix": "/asked",
                "service": "one",
                "filters": [
                    {
                        "forward_auth": {
                            "url": f"http://127.0.0.1:{two.port}/verify",
                            "copy": ["X-User"],
                        }
                    }
                ],
            },
            {"path_prefix": "/limit", "service": "one", "filters": [limit]},
        ],
    }


@dataclass
class Beside:
    """Ports of a proxy and of its peer."""

    ours: int
    theirs: int
    peer: str

    async def both(
        self, path: str, fields: Sequence[tuple[str, str]] = (), method: str = "GET"
    ) -> tuple[Answer, Answer]:
        """What either answers."""
        ours = await ask(self.ours, method, path, [*fields])
        return ours, await ask(self.theirs, method, path, [*fields])


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CONFIGURATIONS)
async def beside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Beside]:
    peer: str = request.param
    program = program_of(peer)
    if program is None:
        pytest.skip(f"{peer} is not installed")
    directory = tmp_path_factory.mktemp(peer)
    (directory / "users").write_text(f"ann:{HASH}\n")
    (directory / "sorry.html").write_text(SORRY)
    (directory / "sorry.http").write_text(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\n"
        f"Content-Length: {len(SORRY)}\r\n\r\n{SORRY}"
    )
    async with origins("one", "two", script=script) as (one, two):
        dead, port = free_port(), free_port()
        proxy = RunningProxy(fairlead(one, two, directory, dead), directory)
        for name, text in CONFIGURATIONS[peer].items():
            said = text.format(
                directory=directory, one=one.port, two=two.port, dead=dead, port=port, hash=HASH,
                sorry=SORRY.replace("\n", "\\n" if peer != "caddy" else ""),
            )  # fmt: skip
            (directory / name).write_text(said)
        first = directory / next(iter(CONFIGURATIONS[peer]))
        environ = {"HOME": str(directory)}
        other = AwaitedProcess(command_of(peer, program, first), directory / "peer.log", environ)
        other.launch()
        try:
            async with proxy:
                try:
                    await eventually(lambda: listens(port), 15, peer)
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{other.log()}") from None
                yield Beside(proxy.port, port, peer)
        finally:
            await other.kill()


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
