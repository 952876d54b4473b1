"""Instances that refuse, vanish or hang up, through the real proxy: what clients notice of it,
and that nothing is done twice that must not be."""

from __future__ import annotations

import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.origin import Call, Origin, echo, origins
from tests.e2e.raw_http import Answer, Client, ask, request
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Site:
    proxy: RunningProxy
    origins: list[Origin]

    @property
    def port(self) -> int:
        return self.proxy.port

    @property
    def calls(self) -> list[Call]:
        """Every call at any origin."""
        return [call for origin in self.origins for call in origin.calls]

    async def metric(self, name: str, **labels: str) -> float | None:
        """The value of a series; None when there is none."""
        status, text = await self.proxy.get("/metrics")
        assert status == 200
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    value: float = sample.value
                    return value
        return None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(origins("a", "b", "c"))
        alive = [origin.instance for origin in found]
        dead = [{"id": f"x{n}", "address": "127.0.0.1", "port": free_port()} for n in range(3)]
        # Whether instances that fail are left out is another matter: here they are asked.
        always = {"ejection": False, "circuit_breaker": False}
        proxy = RunningProxy(
            {
                "services": {
                    "one": {**always, "instances": alive[:1]},
                    "three": {**always, "instances": alive},
                    "mixed": {**always, "instances": [*alive[:2], dead[0]]},
                    "dead": {**always, "instances": dead},
                    "once": {**always, "instances": [alive[0], dead[0]], "retry": False},
                    "hasty": {
                        **always,
                        "instances": alive[:1],
                        "timeouts": {"first_byte": "300ms", "idle": "300ms"},
                    },
                },
                "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
            },
            tmp_path_factory.mktemp("proxy"),
        )
        await stack.enter_async_context(proxy)
        yield Site(proxy, found)


@pytest.fixture
def site(running: Site) -> Site:
    for origin in running.origins:
        origin.calls.clear()
        origin.script = echo
        # No connection of an earlier test is left to be used again.
        origin.disconnect()
    return running


def fault_of(answer: Answer) -> str:
    """The fault of an answer that the proxy made itself."""
    assert answer["Content-Type"] == "application/problem+json"
    code: str = json.loads(answer.body)["code"]
    assert f'; details="{code}"' in (answer["Proxy-Status"] or "")
    return code


# -- nobody listens


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_instance_that_refuses_connections_costs_no_request(
    site: Site, method: str
) -> None:
    body = b"payload" if method == "POST" else b""
    async with await Client.connect(site.port) as client:
        for _ in range(300):
            answer = await client.ask(method, "/mixed/1", body=body)
            assert (answer.status, answer.body) == (200, body)
    assert len(site.calls) == 300
    # It was asked, and then left alone for a second at a time.
    labels = {"service": "mixed", "reason": "connect_refused"}
    retries = await site.metric("fairlead_retries_total", **labels)
    assert retries is not None
    assert 1 <= retries <= 90


async def test_a_body_that_comes_slowly_survives_a_refused_connection(site: Site) -> None:
    for _ in range(6):
        async with await Client.connect(site.port) as client:
            await client.send(request("POST", "/mixed/1", [("Content-Length", "10")]))
            for piece in (b"01234", b"56789"):
                await client.send(piece)
            assert (await client.answer()).body == b"0123456789"


async def test_when_all_refuse_the_answer_says_so(site: Site) -> None:
    for method in ("GET", "POST"):
        answer = await ask(site.port, method, "/dead/1")
        assert answer.status == 502
        assert fault_of(answer) == "connect_refused"


async def test_retries_can_be_switched_off(site: Site) -> None:
    async with await Client.connect(site.port) as client:
        statuses = Counter([(await client.ask("GET", "/once/1")).status for _ in range(40)])
    # Whoever finds out that an instance refuses connections pays for it; then it is left alone.
    assert set(statuses) == {200, 502}
    assert statuses[502] < 20


# -- a connection that was kept and is gone


def hangs_up_when_reused(call: Call) -> bool:
    """Is this not the first call on its connection? Then the origin has hung up, in a way that
    the proxy could not have noticed before it sent the request."""
    return any(
        earlier is not call and earlier.connection == call.connection
        for earlier in call.origin.calls
    )


@pytest.mark.parametrize("service", ["one", "three"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stale_connection_costs_no_get(site: Site, service: str, how: str) -> None:
    """The recipe that many proxies fail: instances close connections just as they are reused."""

    async def script(call: Call) -> None:
        if hangs_up_when_reused(call):
            call.closing = True
            if how == "reset":
                call.abort()
        else:
            await call.reply(b"fine")

    for origin in site.origins:
        origin.script = script
    async with await Client.connect(site.port) as client:
        for _ in range(400):
            answer = await client.ask("GET", f"/{service}/1")
            assert (answer.status, answer.body) == (200, b"fine"), fault_of(answer)
    assert sum(map(hangs_up_when_reused, site.calls)) > 100


async def test_a_stale_connection_never_delivers_a_post_twice(site: Site) -> None:
    async def script(call: Call) -> None:
        await call.read()
        if hangs_up_when_reused(call):
            call.abort()
        else:
            await call.reply(call.body)

    for origin in site.origins:
        origin.script = script
    statuses: Counter[int] = Counter()
    async with await Client.connect(site.port) as client:
        for number in range(300):
            answer = await client.ask("POST", "/three/1", body=b"order %d" % number)
            statuses[answer.status] += 1
            if answer.status != 200:
                assert fault_of(answer) == "closed_early"
    delivered = Counter(call.body for call in site.calls)
    assert set(delivered.values()) == {1}
    assert statuses.keys() <= {200, 502}
    assert statuses[200] > 100
    assert statuses[502] > 50


async def test_instances_that_close_behind_each_answer_cost_no_request(site: Site) -> None:
    """They do not say `Connection: close`, and the end comes before, with, or after the next
    request, as it happens: to a GET that makes no difference."""

    async def script(call: Call) -> None:
        await call.reply(await call.read())
        call.closing = True

    for origin in site.origins:
        origin.script = script
    async with await Client.connect(site.port) as client:
        for _ in range(400):
            assert (await client.ask("GET", "/one/1")).status == 200


async def test_connections_that_ended_while_idle_are_not_used(site: Site) -> None:
    async with await Client.connect(site.port) as client:
        for _ in range(20):
            assert (await client.ask("POST", "/one/1", body=b"x")).status == 200
            site.origins[0].disconnect()
            await eventually(lambda: site.origins[0].open == 0, 5, "connections closed")
            # The proxy hears of it in its own time; a request to itself shows that it had some.
            assert (await client.ask("GET", "/nobody/1")).status == 404
        assert len(site.calls) == 20


# -- instances that fail later than that


async def test_each_way_to_break_an_answer_has_its_own_name(site: Site) -> None:
    async def script(call: Call) -> None:
        match call.tail:
            case "hang-up":
                call.closing = True
            case "garbage":
                await call.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            case "half-head":
                call.closing = True
                await call.write(b"HTTP/1.1 200 OK\r\nContent-")
            case "two-lengths":
                await call.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                )
            case "silence":
                await call.reader.read(1)

    site.origins[0].script = script
    expected = {
        "hang-up": (502, "closed_early"),
        "garbage": (502, "bad_answer"),
        "half-head": (502, "cut_short"),
        "two-lengths": (502, "bad_answer"),
        "silence": (504, "first_byte_timeout"),
    }
    for tail, (status, fault) in expected.items():
        async with await Client.connect(site.port) as client:
            for method in ("GET", "POST"):
                answer = await client.ask(method, f"/hasty/{tail}")
                assert (answer.status, fault_of(answer)) == (status, fault)
    # Each was tried once: a new connection that fails says that the instance may have acted.
    assert Counter(call.tail for call in site.calls) == dict.fromkeys(expected, 2)


async def test_an_answer_that_stops_half_way_is_cut_and_not_repeated(site: Site) -> None:
    async def script(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await call.reader.read(1)

    site.origins[0].script = script
    async with await Client.connect(site.port) as client:
        await client.send(request("GET", "/hasty/1"))
        head = await client.read_head()
        assert head.length() == 10
        assert await client.exactly(4) == b"half"
        assert await client.is_closed()
    assert len(site.calls) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_takes_its_request_along(site: Site, how: str) -> None:
    async def script(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        await call.reader.read(1)

    [origin, *_] = site.origins
    origin.script = script
    client = await Client.connect(site.port)
    await client.send(request("GET", "/one/1"))
    await client.read_head()
    if how == "reset":
        linger = struct.pack("ii", 1, 0)
        client.writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
    await client.close()
    await eventually(lambda: origin.in_flight == 0, 5, "the call's end")
    assert await site.metric("fairlead_inflight_requests", service="one", upstream="a") == 0
