"""Client-side balancing over real sockets: which instance is asked, what is counted, and what
happens when an instance cannot be reached."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy.discovery import (
    Balancing,
    BalancingMiddleware,
    Discovery,
    DiscoverySession,
    Instance,
    NoInstance,
)
from tests.e2e.certificates import Authority
from tests.e2e.origin import Call, Gate, Origin, origins
from tests.support.manual_provider import ManualProvider, instance
from tests.support.processes import eventually, free_port


class Fleet:
    """Owns a discovery whose registry says what the test tells it."""

    def __init__(self) -> None:
        self.provider = ManualProvider()
        self.discovery = Discovery(self.provider)

    async def tell(self, *instances: Instance) -> None:
        """These are all there are; returns when the discovery knows."""
        self.provider.tell(*instances)
        await self.discovery.wait_ready(5)
        known = {one.service for one in instances}
        await eventually(
            lambda: all(
                self.discovery.instances(service)
                == tuple(one for one in instances if one.service == service)
                for service in known
            )
        )


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    async with fleet.discovery:
        yield fleet


def at(origin: Origin, service: str = "users", **fields: Any) -> Instance:
    return instance(origin.name, service, port=origin.port, **fields)


def nowhere(id_: str = "dead") -> Instance:
    """An instance whose port refuses connections."""
    return instance(id_, port=free_port())


async def ask(session: aiohttp.ClientSession, url: str, method: str = "GET", **more: Any) -> str:
    """The name of the origin that answered."""
    async with session.request(method, url, **more) as answer:
        await answer.read()
        return answer.headers["X-Origin"]


async def test_requests_are_spread_and_keep_their_host(fleet: Fleet) -> None:
    async with origins("a", "b", "c") as [a, b, c], DiscoverySession(fleet.discovery) as session:
        await fleet.tell(at(a), at(b), at(c))
        answered = Counter([await ask(session, "http://users/x?q=1") for _ in range(9)])
        assert answered == {"a": 3, "b": 3, "c": 3}
        assert {call.target for call in (*a.calls, *b.calls, *c.calls)} == {"/x?q=1"}
        assert a.calls[0].head.get("Host") == "users"
        await fleet.tell(at(b))
        assert {await ask(session, "http://users/x") for _ in range(3)} == {"b"}
        counted = fleet.discovery.metrics.selections
        assert counted == {("users", "round_robin", "b"): 6}


async def test_other_hosts_are_left_alone(fleet: Fleet) -> None:
    async with origins("users", "plain") as [users, plain]:
        await fleet.tell(at(users, "Users"), at(users, "localhost"))
        async with DiscoverySession(fleet.discovery, hosts=["*", "*.svc"]) as session:
            # A port names a place, and so does an address.
            assert await ask(session, f"http://localhost:{plain.port}/") == "plain"
            assert await ask(session, f"http://127.0.0.1:{plain.port}/") == "plain"
            # Hosts have no capitals, services may.
            assert await ask(session, "http://Users/") == "users"
            assert await ask(session, "http://users.svc/") == "users"
            with pytest.raises(NoInstance, match="'ghost'"):
                await ask(session, "http://ghost.svc/")
        async with DiscoverySession(fleet.discovery, hosts=["*.svc"]) as session:
            assert await ask(session, "http://users.svc/") == "users"
            with pytest.raises(aiohttp.ClientConnectorError):  # asks the name server
                await ask(session, "http://users/")
    assert [call.head.get("Host") for call in users.calls] == ["users", "users.svc", "users.svc"]


async def test_an_instance_that_refuses_is_passed_over(fleet: Fleet) -> None:
    """Whatever the method and the body: what could not be connected was not sent."""
    async with origins("a") as [a], DiscoverySession(fleet.discovery) as session:
        await fleet.tell(at(a), nowhere())

        async def body() -> AsyncIterator[bytes]:
            yield b"once"
            yield b" only"

        with capture_logs() as logs:
            for _ in range(4):
                assert await ask(session, "http://users/", "POST", data=body()) == "a"
        assert [call.body for call in a.calls] == [b"once only"] * 4
        skipped = [line for line in logs if line["event"] == "instance_not_reached"]
        assert {line["instance"] for line in skipped} == {"dead"}
        picks = fleet.discovery.metrics.selections
        assert picks[("users", "round_robin", "dead")] == len(skipped) > 0


async def test_tries_are_limited_and_the_failure_is_aiohttps_own(fleet: Fleet) -> None:
    await fleet.tell(nowhere("x"), nowhere("y"), nowhere("z"))
    balancing = {
        "none": Balancing(max_retries=0),
        "all": Balancing(max_retries=9),
    }
    for name, picks in (("none", 1), ("default", 2), ("all", 3)):
        middleware = BalancingMiddleware(
            fleet.discovery, default=balancing.get(name, "random"), hosts=["*"]
        )
        before = sum(fleet.discovery.metrics.selections.values())
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(session, "http://users/")
        assert sum(fleet.discovery.metrics.selections.values()) - before == picks
        assert middleware.in_flight("users") == {"x": 0, "y": 0, "z": 0}


async def test_a_reset_or_an_error_status_is_not_tried_again(fleet: Fleet) -> None:
    async def reset(call: Call) -> None:
        await call.read()
        call.abort()

    async def busy(call: Call) -> None:
        await call.reply(status=503)

    async with origins("a", "b", script=reset) as [a, b]:
        await fleet.tell(at(a), at(b))
        async with DiscoverySession(fleet.discovery) as session:
            with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                await ask(session, "http://users/", "POST", data=b"order")
            assert len(a.calls) + len(b.calls) == 1
            a.script = b.script = busy
            async with session.get("http://users/") as answer:
                assert answer.status == 503
            assert len(a.calls) + len(b.calls) == 2


async def test_statuses_are_tried_again_when_asked_for(fleet: Fleet) -> None:
    async def busy(call: Call) -> None:
        await call.reply(call.origin.name.encode(), status=503)

    how = Balancing(retry_statuses={503}, max_retries=2)
    async with origins("a", "b") as [a, b]:
        a.script = busy
        async with DiscoverySession(fleet.discovery, services={"users": how}) as session:
            await fleet.tell(at(a), at(b))
            for method, body in (("GET", None), ("PUT", b"x"), ("DELETE", "x")):
                for _ in range(2):
                    assert await ask(session, "http://users/", method, data=body) == "b"
            # Not what may not be repeated,
            posted = {await ask(session, "http://users/", "POST", data=b"x") for _ in range(2)}
            assert posted == {"a", "b"}
            # and when all refuse, the last answer counts; one that cannot be reached has none.
            b.script = busy
            async with session.get("http://users/") as answer:
                assert (answer.status, await answer.read() in (b"a", b"b")) == (503, True)
            await fleet.tell(at(a), nowhere(), nowhere("gone"))
            for _ in range(3):
                async with session.get("http://users/") as answer:
                    assert (answer.status, await answer.read()) == (503, b"a")


async def test_in_flight_until_the_answer_is_closed(fleet: Fleet) -> None:
    release = asyncio.Event()

    async def halves(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Origin: a\r\n\r\nab")
        await release.wait()
        await call.write(b"cd")

    gate = Gate()
    middleware = BalancingMiddleware(fleet.discovery, default="least_connections")
    async with (
        origins("a", script=halves) as [a],
        aiohttp.ClientSession(middlewares=[middleware]) as session,
    ):
        await fleet.tell(at(a))
        first = await session.get("http://users/")
        second = await session.get("http://users/")
        third = await session.get("http://users/")
        assert middleware.in_flight("users") == {"a": 3}
        second.close()
        assert middleware.in_flight("users") == {"a": 2}
        third.release()
        assert middleware.in_flight("users") == {"a": 1}
        first.close()
        first.release()
        assert middleware.in_flight("users") == {"a": 0}
        release.set()
        async with session.get("http://users/") as whole:
            assert await whole.read() == b"abcd"
            assert middleware.in_flight("users") == {"a": 0}  # read to its end

        a.script = gate
        waiting = asyncio.create_task(session.get("http://users/"))
        await eventually(lambda: a.in_flight == 1)
        assert middleware.in_flight("users") == {"a": 1}
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert middleware.in_flight("users") == {"a": 0}
        with pytest.raises(TimeoutError):
            await session.get("http://users/", timeout=aiohttp.ClientTimeout(total=0.05))
        gate.open()
        with pytest.raises(RuntimeError, match="mine"):
            async with session.get("http://users/"):
                raise RuntimeError("mine")
        assert middleware.in_flight("users") == {"a": 0}


async def test_least_connections_avoids_the_busy(fleet: Fleet) -> None:
    gate = Gate()
    async with (
        origins("a", "b", script=gate) as [a, b],
        DiscoverySession(fleet.discovery, default="least_connections") as session,
    ):
        await fleet.tell(at(a), at(b))
        first = asyncio.create_task(ask(session, "http://users/"))
        await eventually(lambda: a.in_flight + b.in_flight == 1)
        busy, idle = (a, b) if a.in_flight else (b, a)
        idle.script = answer_at_once
        assert {await ask(session, "http://users/") for _ in range(5)} == {idle.name}
        gate.open()
        assert await first == busy.name


async def answer_at_once(call: Call) -> None:
    await call.reply()


async def test_a_key_decides(fleet: Fleet) -> None:
    by_user = Balancing(
        balancer="consistent_hash",
        params={"virtual_nodes": 50},
        key=lambda request: request.headers.get("X-User"),
    )
    async with (
        origins("a", "b", "c") as all_,
        DiscoverySession(fleet.discovery, services={"users": by_user}) as session,
    ):
        await fleet.tell(*map(at, all_))

        async def of(user: int) -> str:
            return await ask(session, "http://users/", headers={"X-User": str(user)})

        first = [await of(user) for user in range(12)]
        assert set(first) == {"a", "b", "c"}
        assert [await of(user) for user in range(12)] == first
        await fleet.tell(*map(at, all_[:2]))
        now = [await of(user) for user in range(12)]
        assert set(now) == {"a", "b"}
        assert all(now[user] == name for user, name in enumerate(first) if name != "c")


async def test_redirects_and_cookies_go_by_the_service(fleet: Fleet) -> None:
    async def answer(call: Call) -> None:
        if call.target == "/old":
            fields = [("Location", "/new"), ("Set-Cookie", "session=7; Path=/")]
            await call.reply(status=302, fields=fields)
        elif call.target == "/far":
            await call.reply(status=302, fields=[("Location", "http://orders/new")])
        else:
            await call.reply((call.head.get("Cookie") or "").encode())

    async with (
        origins("a", "b", "o", script=answer) as [a, b, o],
        DiscoverySession(fleet.discovery) as session,
    ):
        await fleet.tell(at(o, "orders"), at(a), at(b))
        async with session.get("http://users/old") as answered:
            assert str(answered.url) == "http://users/new"
            assert await answered.text() == "session=7"
        # Each hop was balanced, and other services do not get the cookie.
        assert (len(a.calls), len(b.calls)) == (1, 1)
        async with session.get("http://users/far") as answered:
            assert (answered.headers["X-Origin"], await answered.text()) == ("o", "")


async def test_web_sockets_are_balanced_and_in_flight_while_open(fleet: Fleet) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/ws", echo)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    middleware = BalancingMiddleware(fleet.discovery)
    try:
        await fleet.tell(nowhere(), instance("ws", port=runner.addresses[0][1]))
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:
            async with session.ws_connect("http://users/ws") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str(timeout=5) == "hello"
                assert middleware.in_flight("users") == {"dead": 0, "ws": 1}
            assert middleware.in_flight("users") == {"dead": 0, "ws": 0}
    finally:
        await runner.cleanup()


async def test_certificates_go_by_the_service(fleet: Fleet, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("users"))

    async def hello(request: web.Request) -> web.Response:
        return web.Response(headers={"X-Origin": request.host})

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    trusted = ssl.create_default_context(cafile=authority.ca)
    try:
        await fleet.tell(instance("t", port=port), instance("t", "orders", port=port))
        async with DiscoverySession(fleet.discovery) as session:
            assert await ask(session, "https://users/", ssl=trusted) == "users"
        # In another session: before 3.14, aiohttp's pool does not tell by name the connections
        # to one address.
        async with DiscoverySession(fleet.discovery) as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await ask(session, "https://orders/", ssl=trusted)
    finally:
        await runner.cleanup()


async def test_a_service_without_usable_instances_is_an_error_that_says_why(fleet: Fleet) -> None:
    async with DiscoverySession(
        fleet.discovery, services={"orders": "random"}, hosts=["*", "*.svc"]
    ) as session:
        await fleet.tell(
            instance("l", health="draining", health_message="deploy"), instance("z", weight=0)
        )
        with pytest.raises(NoInstance, match=r"\bl: .*deploy; z: ") as caught:
            await ask(session, "http://users/")
        assert isinstance(caught.value, aiohttp.ClientError)  # what callers catch anyway
        # A service that left is not looked for at the name server.
        await fleet.tell(instance("x", "other"))
        await eventually(lambda: fleet.discovery.services() == ("other",))
        for host in ("users", "users.svc", "orders"):
            with pytest.raises(NoInstance, match="nobody is registered"):
                await ask(session, f"http://{host}/")


async def test_hosts_that_are_no_service_leave_nothing_behind(fleet: Fleet) -> None:
    await fleet.tell(instance("x", "other"))
    balancing = BalancingMiddleware(fleet.discovery, hosts=["*.svc"])
    async with aiohttp.ClientSession(middlewares=[balancing]) as session:
        for number in range(3):
            with pytest.raises(NoInstance, match="nobody is registered"):
                await ask(session, f"http://no{number}.svc/")
    assert not balancing._pools


async def test_a_registry_that_never_answered(fleet: Fleet) -> None:
    fleet.provider.last_error = "refused"
    async with (
        origins("a") as [a],
        DiscoverySession(fleet.discovery, hosts=["*.svc"]) as session,
    ):
        waiting = asyncio.create_task(ask(session, "http://users.svc/"))
        await eventually(lambda: session.closed is False and not waiting.done())
        await fleet.tell(at(a))  # A request waits for the first list, for a while.
        assert await waiting == "a"
    silent = Discovery(ManualProvider())
    async with silent, DiscoverySession(silent, hosts=["*.svc"]) as session:
        with pytest.raises(NoInstance, match=r"manual.* 3 s"):
            await ask(session, "http://users.svc/")


async def test_the_users_own_middlewares_see_the_name(fleet: Fleet) -> None:
    seen: list[str] = []

    async def note(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        seen.append(str(request.url))
        return await handler(request)

    async with (
        origins("a") as [a],
        DiscoverySession(
            fleet.discovery, middlewares=[note], base_url="http://users/", headers={"X-Mine": "1"}
        ) as session,
    ):
        await fleet.tell(at(a))
        assert isinstance(session, aiohttp.ClientSession)
        assert await ask(session, "/path") == "a"
        assert seen == ["http://users/path"]
        assert a.calls[0].head.get("X-Mine") == "1"


def test_settings_that_cannot_work() -> None:
    for settings, text in (
        ({"balancer": "fastest"}, "fastest.: allowed are consistent_hash, least_connections"),
        ({"params": {"virtual_nodes": 3}}, "round_robin: .*virtual_nodes"),
        ({"balancer": "consistent_hash", "params": {"virtual_nodes": 0}}, "virtual_nodes: 0"),
        ({"max_retries": -1}, "max_retries: -1"),
    ):
        with pytest.raises(ValueError, match=text):
            Balancing(**settings)  # type: ignore[arg-type]
    for hosts in ("users", ["*svc"], ["*.*"], ["*."]):
        with pytest.raises(ValueError, match="hosts: "):
            BalancingMiddleware(Discovery(ManualProvider()), hosts=hosts)
