"""The files under examples/ that take the place of others' configurations, and traffic by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from proxy.cli import main
from proxy.engine.proxy_protocol import ProxyProtocol
from proxy.settings.file import Settings
from proxy.settings.load import load
from proxy.settings.service import for_worker
from tests.support.wire import CLIENT, OK, OK_RELAYED, PROXY, Peer, Wire, forwarded, request
from tests.wire.conftest import making

EXAMPLES = Path(__file__).parents[2] / "examples"
SITE = load(EXAMPLES / "site.yaml", {"SITE": "site.example"})
INGEST = load(EXAMPLES / "ingest.yaml", {})


@pytest.mark.parametrize(("name", "said"), [("site", "8 routes"), ("ingest", "4 routes")])
def test_fairlead_check_finds_nothing_to_say(name: str, said: str) -> None:
    command = ["check", "-c", str(EXAMPLES / f"{name}.yaml")]
    result = CliRunner().invoke(main, command, env={"SITE": "site.example"})
    assert (result.exit_code, said in result.output) == (0, True), result.output


@pytest.fixture
def make() -> Iterator[Any]:
    yield from making(False)


def wired(make: Any, settings: Settings, listener: str, **limits: Any) -> Wire:
    """A wire by the file, on which each service has one instance of its own."""
    [config] = [one for one in settings.listeners if one.name == listener]
    services = {name: replace(for_worker(one), **limits) for name, one in settings.services.items()}
    routes = tuple(  # A wire's listener is called web.
        replace(one, listeners=tuple("web" if name == listener else "" for name in one.listeners))
        for one in settings.routes
    )
    config = replace(config, name="web", tls=None)
    wire: Wire = make(routes=routes, services=services, listener=config)
    wire.serve("z")
    for at, name in enumerate(services):
        wire.serve("abcdef"[at], service=name)
    return wire


def answer(wire: Wire, line: str, host: str) -> str:
    """Status and Location of the proxy's own answer."""
    client = wire.client()
    client.send(request(f"GET {line}", host=host))
    head = client.take().partition(b"\r\n\r\n")[0].decode()
    place = [one.removeprefix("Location: ") for one in head.split("\r\n") if "Location" in one]
    return " ".join([head.split(" ")[1], *place])


@pytest.mark.parametrize(
    ("listener", "host", "line", "expected"),
    [
        ("web", "site.example", "/x?y=1", "308 https://site.example/x?y=1"),
        ("web", "site.example", "/.well-known/acme-challenge/t", "app"),
        ("secure", "office.site.example", "/", "302 https://office.site.example/desk/"),
        ("secure", "office.site.example", "/desk/a", "office"),
        ("secure", "office.site.example", "/static/a.css", "assets"),
        ("secure", "office.site.example", "/other", "404"),
        ("secure", "docs.site.example", "/", "302 https://docs.site.example/docs"),
        ("secure", "docs.site.example", "/docs/x", "api"),
        ("secure", "docs.site.example", "/openapi.json", "api"),
        ("secure", "docs.site.example", "/docsx", "404"),
        ("secure", "tools.site.example", "/", "tools"),
        ("secure", "site.example", "/api/x", "api"),
        ("secure", "www.site.example", "/api/x", "app"),
        ("secure", "else.example", "/", "404"),
    ],
)
def test_the_site_leads_where_its_file_says(
    make: Any, listener: str, host: str, line: str, expected: str
) -> None:
    wire = wired(make, SITE, listener)
    if expected not in SITE.services:
        assert answer(wire, line, host) == expected
        return
    client = wire.client()
    client.send(request(f"GET {line}", host=host))
    instance = wire.accepted("abcdef"[list(SITE.services).index(expected)])
    instance.expect(forwarded(f"GET {line}", host=host))
    instance.send(OK)
    client.expect(OK_RELAYED)
    instance.eof()


def test_the_sites_limit_lets_a_burst_through_and_concerns_its_service_alone(make: Any) -> None:
    wire = wired(make, SITE, "secure")
    statuses = []
    for number in range(60):
        client = wire.client()
        client.send(request("GET /api", host="site.example"))
        if number < 50:
            instance = wire.connected()
            instance.take()
            instance.send(OK)
            instance.eof()
        statuses.append(client.take()[9:12])
    assert statuses == [b"200"] * 50 + [b"429"] * 10
    client = wire.client()
    client.send(request("GET /", host="site.example"))
    assert wire.accepted("a").take()


def ingesting(wire: Wire, head: bytes, before: bytes) -> Peer:
    """A client of a balancer that says `before` in front of the request."""
    protocol = ProxyProtocol(wire.worker.services, wire.facts)
    transport = wire.network.open(wire.loop, protocol, peer=CLIENT, own=PROXY)
    wire.settle()
    client = wire.adopt(transport, "client")
    client.send(before + head)
    return client


ANNOUNCED = b"PROXY TCP4 198.51.100.7 198.51.100.1 5000 80\r\n"


def test_the_ingest_tells_instances_the_announced_client(make: Any) -> None:
    wire = wired(make, INGEST, "web")
    client = ingesting(wire, request("POST /in", "Content-Length: 0"), ANNOUNCED)
    instance = wire.accepted("a")
    sent = forwarded("POST /in", "Content-Length: 0", for_="198.51.100.7", port="80")
    instance.expect(sent)
    instance.send(OK)
    client.expect(OK_RELAYED)
    instance.eof()


@pytest.mark.parametrize(
    ("line", "fields", "before", "expected"),
    [
        ("GET /-/healthcheck", (), ANNOUNCED, b"HTTP/1.1 200 "),
        ("DELETE /in", (), ANNOUNCED, b"HTTP/1.1 403 "),
        ("PUT /in", ("Content-Type: text/plain", "Content-Length: 0"), ANNOUNCED, b"HTTP/1.1 403"),
        ("GET /in", (), b"", b""),
    ],
)
def test_the_ingest_answers_itself(
    make: Any, line: str, fields: tuple[str, ...], before: bytes, expected: bytes
) -> None:
    wire = wired(make, INGEST, "web")
    client = ingesting(wire, request(line, *fields), before)
    assert client.take().startswith(expected)
    wire.expect_no_dial()
    assert client.closed == (not before)


def test_the_ingest_lets_one_too_many_wait(make: Any) -> None:
    wire = wired(make, INGEST, "web", max_inflight=1)
    first = ingesting(wire, request("GET /in"), ANNOUNCED)
    instance = wire.accepted("a")
    instance.take()
    second = ingesting(wire, request("GET /in"), ANNOUNCED)
    second.expect_nothing()
    wire.advance(6.0)
    assert second.take().startswith(b"HTTP/1.1 503 ")
    instance.send(OK)
    first.expect(OK_RELAYED)
    instance.eof()
