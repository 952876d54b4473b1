"""The contract of health checks: `CheckContract`, and two more for those that connect and for those
that wait for an answer.

    class TestRedis(CheckContract, ConnectingContract, WaitingContract):
        check = RedisCheck
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from proxy.health.base import MAX_MESSAGE, Check, Endpoint
from proxy.testing.waiting import free_port


class _Contract:
    check: ClassVar[type[Check]]
    """The one under test."""
    good: ClassVar[Mapping[str, Any]] = {}
    """Parameters with which it is good about `origin`."""
    stuck: ClassVar[Mapping[str, Any]] = {}
    """Parameters with which it waits for ever for a server that says nothing."""

    def make(self, parameters: Mapping[str, Any], timeout: float = 5.0) -> Check:
        """Build it outside an event loop or in one."""
        return self.check(timeout=timeout, **parameters)


class CheckContract(_Contract):
    """Laws of every check."""

    @pytest_asyncio.fixture
    async def origin(self) -> AsyncIterator[Endpoint]:
        """A server that the check is good about: HTTP, and 200 to whatever is asked."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
            except (OSError, EOFError):
                pass
            finally:
                writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            yield Endpoint(*server.sockets[0].getsockname())

    def test_parameters_have_defaults_and_plain_types(self) -> None:
        parameters = inspect.signature(self.check, eval_str=True).parameters.values()
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters)
        assert all(p.default is not p.empty for p in parameters)
        assert {p.annotation for p in parameters} <= {str, int, float, bool}

    @pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
    def test_a_limit_that_is_none_is_refused_by_name(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout"):
            self.make(self.good, timeout)

    @pytest.mark.asyncio
    async def test_good_is_good_again_and_again(self, origin: Endpoint) -> None:
        check = self.make(self.good)
        verdicts = [await check.probe(origin) for _ in range(2)]
        await check.close()
        await check.close()
        verdicts.append(await check.probe(origin))
        await check.close()
        assert [verdict.ok for verdict in verdicts] == [True] * 3, verdicts
        assert all(verdict.seconds >= 0 for verdict in verdicts)

    @pytest.mark.asyncio
    async def test_probes_at_the_same_time_do_not_meet(self, origin: Endpoint) -> None:
        check = self.make(self.good)
        verdicts = await asyncio.gather(*(check.probe(origin) for _ in range(20)))
        await check.close()
        assert all(verdict.ok for verdict in verdicts), verdicts


class ConnectingContract(_Contract):
    """Laws of checks that connect to the endpoint."""

    @pytest.mark.asyncio
    @pytest.mark.parametrize("address", ["127.0.0.1", "::1", "no-such-host.invalid", "300.1.1.1"])
    async def test_a_port_nobody_listens_on_is_a_verdict(self, address: str) -> None:
        check = self.make(self.good)
        verdict = await check.probe(Endpoint(address, free_port()))
        await check.close()
        assert not verdict.ok
        if address == "127.0.0.1":
            assert verdict.message == os.strerror(errno.ECONNREFUSED)
        assert 0 < len(verdict.message) <= MAX_MESSAGE
        assert verdict.message.isprintable()


class WaitingContract(_Contract):
    """Laws of checks that wait for an answer, which may never come."""

    @pytest_asyncio.fixture
    async def silent(self) -> AsyncIterator[Endpoint]:
        """A server that accepts and never says a word."""
        writers = []

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await reader.read()
            writer.close()

        async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
            yield Endpoint(*server.sockets[0].getsockname())
            for writer in writers:
                writer.transport.abort()

    @pytest.mark.asyncio
    async def test_silence_ends_with_the_limit(self, silent: Endpoint) -> None:
        check = self.make(self.stuck, timeout=0.2)
        loop = asyncio.get_running_loop()
        start = loop.time()
        verdict = await check.probe(silent)
        await check.close()
        assert not verdict.ok
        assert "0.2 s" in verdict.message
        assert loop.time() - start >= 0.2

    @pytest.mark.asyncio
    async def test_cancelling_a_probe_cancels_it(self, silent: Endpoint) -> None:
        check = self.make(self.stuck)
        probe = asyncio.create_task(check.probe(silent))
        done, _ = await asyncio.wait([probe], timeout=0.1)
        assert not done
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        await check.close()
