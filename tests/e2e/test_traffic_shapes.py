"""Routes and filters in the real proxy, from files to what clients and instances see: conditions of
routes, files that are included, and what is refused on the way."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from argon2 import PasswordHasher

from tests.e2e.origin import Gate, Origin, echo, origins
from tests.e2e.raw_http import Answer, Client, Ended, ask, request
from tests.e2e.reloading import reload
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOB = "bob:" + PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("sesame")
PAGE = "https://app.example"
TEAM = {
    "services": {"team": "http://127.0.0.1:{port}"},
    "filters": {"stamp": {"headers": {"request": {"set": {"X-Team": "blue"}}}}},
    "routes": [{"path_prefix": "/team", "filters": ["stamp"], "service": "team"}],
}


@dataclass
class Site:
    """A proxy, two instances, and the directory of its files."""

    proxy: RunningProxy
    port: int
    few: int
    """Port of the listener where a client may have two connections."""
    one: Origin
    two: Origin
    directory: Path

    async def ask(self, line: str, *fields: str, body: bytes = b"") -> Answer:
        method, _, target = line.partition(" ")
        pairs = [(name, value) for name, _, value in (one.partition(": ") for one in fields)]
        return await ask(self.port, method, target, pairs, body)

    def include(self, name: str, text: str) -> None:
        """Write one of the files that are included."""
        (self.directory / "conf.d" / name).write_text(text)


def code(answer: Answer) -> str:
    """The fault of an answer of the proxy's own."""
    found: str = json.loads(answer.body)["code"]
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("shapes")
    (directory / "conf.d").mkdir()
    (directory / "noon.html").write_text("<p>at noon")
    port, few = free_port(), free_port()
    async with origins("one", "two") as (one, two):
        two_at_most = {"limits": {"connections_per_client": 2}}
        config = {
            "listeners": [
                {"name": "web", "bind": f"127.0.0.1:{port}", "trusted_proxies": ["127.0.0.1/32"]},
                {"name": "few", "bind": f"127.0.0.1:{few}", **two_at_most},
            ],
            "include": ["conf.d/*.yaml"],
            "services": {
                "one": {"instances": [{**one.instance, "metadata": {"public": "true"}}]},
                "two": {"instances": [two.instance]},
                "hasty": {"from": "one", "timeouts": {"first_byte": "100ms"}, "retry": False},
            },
            "filters": {
                "pages": {"cors": {"origins": [PAGE], "headers": ["Authorization"]}},
                "staff": {"basic_auth": {"users": [BOB], "header": "X-User"}},
                "small": {"body_limit": "4KiB"},
                "closed": {
                    "maintenance": {
                        "file": "noon.html", "allow": ["10.0.0.0/8"], "retry_after": "1h",
                    }
                },
            },
            "routes": [
                {"path_prefix": "/page", "query": {"debug": "1"}, "service": "two"},
                {"path_prefix": "/page", "service": "one"},
                {"path_regex": "^/v(?P<v>[0-9]+)/", "rewrite": "/api/{v}/", "service": "two"},
                {"path_prefix": "/hasty", "service": "hasty"},
                {"path_prefix": "/private", "filters": ["pages", "staff"], "service": "one"},
                {"path_prefix": "/small", "filters": ["small"], "service": "one"},
                {"path_prefix": "/closed", "filters": ["closed"], "service": "one"},
                {
                    "path_prefix": "/public/{service}",
                    "strip_prefix": True,
                    "where": {"public": "true"},
                },
            ],
        }  # fmt: skip
        site = Site(RunningProxy(config, directory), port, few, one, two, directory)
        site.include("team.yaml", json.dumps(TEAM).replace("{port}", str(two.port)))
        async with site.proxy:
            yield site


@pytest.mark.parametrize(
    ("asked", "instance", "told"),
    [
        ("/page", "one", "/page"),
        ("/page?debug=2", "one", "/page?debug=2"),
        ("/page?debug=0&debug=1", "one", "/page?debug=0&debug=1"),
        ("/page?debug=1", "two", "/page?debug=1"),
        ("/page?x=1&de%62ug=%31", "two", "/page?x=1&de%62ug=%31"),
        ("/v12/books?x=1", "two", "/api/12/books?x=1"),
        ("/public/one/x", "one", "/x"),
    ],
)
async def test_a_request_goes_where_its_route_says(
    site: Site, asked: str, instance: str, told: str
) -> None:
    answer = await site.ask(f"GET {asked}")
    assert (answer.status, answer["X-Origin"]) == (200, instance)
    assert (site.one if instance == "one" else site.two).calls[-1].target == told


@pytest.mark.parametrize(
    ("asked", "fault"),
    [("/vx/books", "no_route"), ("/public/two/x", "unknown_service")],
)
async def test_a_path_that_no_route_fits_is_unknown(site: Site, asked: str, fault: str) -> None:
    answer = await site.ask(f"GET {asked}")
    assert (answer.status, code(answer)) == (404, fault)


async def test_the_same_instances_have_other_limits_in_another_service(site: Site) -> None:
    gate = site.one.script = Gate()
    try:
        patient = asyncio.create_task(site.ask("GET /page"))
        answer = await site.ask("GET /hasty")
        assert (answer.status, code(answer)) == (504, "first_byte_timeout")
        assert not patient.done()
        gate.open()
        assert (await patient)["X-Origin"] == "one"
    finally:
        site.one.script = echo


async def test_files_that_are_included_add_to_the_configuration_and_are_read_again(
    site: Site,
) -> None:
    assert (await site.ask("GET /team/x", "X-Team: red"))["X-Origin"] == "two"
    assert site.two.calls[-1].head.all("X-Team") == ["blue"]
    site.include("more.yaml", "routes:\n  - {path_prefix: /more, service: team}\n")
    try:
        assert (await site.ask("GET /more")).status == 404
        assert (await reload(site.proxy))[0] == 0
        assert (await site.ask("GET /more"))["X-Origin"] == "two"
        site.include("more.yaml", "routes:\n  - {path_prefix: /more, service: team, odd: 1}\n")
        result, said = await reload(site.proxy)
        assert result == 2
        assert "more.yaml:2:" in said
        assert (await site.ask("GET /more"))["X-Origin"] == "two"
    finally:
        (site.directory / "conf.d/more.yaml").unlink()
    assert (await reload(site.proxy))[0] == 0
    assert (await site.ask("GET /more")).status == 404


@pytest.mark.parametrize(
    ("said", "status"), [("bob:sesame", 200), ("bob:wrong", 401), ("eve:sesame", 401), ("", 401)]
)
async def test_pages_of_another_origin_may_read_what_a_password_is_asked_for(
    site: Site, said: str, status: int
) -> None:
    proof = [f"Authorization: Basic {base64.b64encode(said.encode()).decode()}"] if said else []
    for _ in range(2):  # A right one is computed, and then remembered.
        answer = await site.ask("GET /private", f"Origin: {PAGE}", "X-User: root", *proof)
        assert answer.status == status
        assert answer["Access-Control-Allow-Origin"] == PAGE
    if status == 200:
        assert site.one.calls[-1].head.all("X-User") == ["bob"]
    before = len(site.one.calls)
    preflight = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: X")
    answer = await site.ask("OPTIONS /private", f"Origin: {PAGE}", *preflight)
    assert (answer.status, answer["Access-Control-Allow-Headers"]) == (204, "Authorization")
    assert len(site.one.calls) == before


async def test_a_body_that_is_too_long_is_refused(site: Site) -> None:
    assert (await site.ask("POST /small", body=b"x" * 4096)).body == b"x" * 4096
    before = len(site.one.calls)
    answer = await site.ask("POST /small", body=b"x" * 4097)
    assert (answer.status, code(answer)) == (413, "body_too_large")
    assert len(site.one.calls) == before
    async with await Client.connect(site.port) as client:
        chunked = [("Transfer-Encoding", "chunked")]
        await client.send(request("POST", "/small", chunked) + b"1000\r\n%b\r\n" % bytes(4096))
        await eventually(lambda: len(site.one.calls) > before, what="the instance is asked")
        await client.send(b"1\r\nx\r\n")
        answer = await client.answer()
        assert (answer.status, code(answer)) == (413, "body_too_large")
    await eventually(lambda: not site.one.in_flight, what="what began of the body is cut off")


async def test_a_site_is_closed_for_all_but_some(site: Site) -> None:
    answer = await site.ask("GET /closed")
    assert (answer.status, answer.body, answer["Retry-After"]) == (503, b"<p>at noon", "3600")
    for client, status in ("10.1.2.3", 200), ("11.1.2.3", 503):
        answer = await site.ask("GET /closed", f"X-Forwarded-For: {client}")
        assert answer.status == status
    (site.directory / "noon.html").write_text("<p>at one")

    async def is_told() -> bool:
        return (await site.ask("GET /closed")).body == b"<p>at one"

    await eventually(is_told, what="the other page")


async def test_a_client_has_so_many_connections_and_no_more(site: Site) -> None:
    async with await Client.connect(site.few) as first, await Client.connect(site.few) as second:
        for client in first, second:
            assert (await client.ask("GET", "/page")).status == 200
        async with await Client.connect(site.few) as third:
            assert await third.is_closed()
        await second.close()

        async def has_room() -> bool:
            async with await Client.connect(site.few) as client:
                try:
                    return (await client.ask("GET", "/page")).status == 200
                except (OSError, EOFError, Ended):
                    return False

        await eventually(has_room, what="room for another one")
        assert (await first.ask("GET", "/page")).status == 200
        # Elsewhere nobody counts.
        assert (await site.ask("GET /page")).status == 200
