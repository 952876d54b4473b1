"""The contracts, for the plug-ins of this package, and all of them in a proxy."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from fairlead_examples.hosts import HostsOptions, HostsProvider
from fairlead_examples.redis import RedisCheck
from fairlead_examples.stamp import Stamp
from fairlead_examples.sticky_random import StickyRandom

from proxy.health.base import Endpoint
from proxy.registry.base import Provider
from proxy.testing.balancers import FairBalancerContract
from proxy.testing.checks import CheckContract, ConnectingContract, WaitingContract
from proxy.testing.filters import FilterContract, a_request, an_answer
from proxy.testing.fixtures import FairleadProcess
from proxy.testing.providers import ProviderContract
from proxy.testing.waiting import free_port


class TestHosts(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return HostsProvider(HostsOptions(endpoints=(f"http://127.0.0.1:{free_port()}",)))


class TestStickyRandom(FairBalancerContract):
    balancer = StickyRandom


class TestStamp(FilterContract):
    filter = Stamp
    given: ClassVar = {"value": "7"}

    def test_an_answer_says_so_and_no_request_may(self) -> None:
        request, answer = a_request(fields={"X-Stamp": "8"}), an_answer()
        stamp = self.make()
        stamp.on_request(request)
        stamp.on_response(request, answer)
        assert request.headers.get("X-Stamp") is None
        assert answer.headers.get("X-Stamp") == "7"


class TestRedis(CheckContract, ConnectingContract, WaitingContract):
    check = RedisCheck

    @pytest_asyncio.fixture
    async def origin(self) -> AsyncIterator[Endpoint]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"+PONG\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            yield Endpoint(*server.sockets[0].getsockname())


def test_a_proxy_takes_all_of_them_by_their_names(
    fairlead_proxy: Callable[[Mapping[str, Any]], FairleadProcess],
    fairlead_instance: Callable[[str], dict[str, Any]],
) -> None:
    one = fairlead_instance("hello")
    text = fairlead_instance(f"users {one['address']}:{one['port']}")
    proxy = fairlead_proxy(
        {
            "registry": {"type": "hosts", "endpoints": [f"http://127.0.0.1:{text['port']}"]},
            "defaults": {
                "balancer": {"type": "sticky_random", "requests": 3},
                # Nobody is well by it, so all are served.
                "health_check": {"type": "fairlead_examples.redis:RedisCheck", "password": "x"},
            },
            "filters": {"mark": {"stamp": {"value": "7"}}},
            "routes": [{"path_prefix": "/{service}", "strip_prefix": True, "filters": ["mark"]}],
        }
    )
    with urllib.request.urlopen(f"{proxy.url}/users/", timeout=10) as answer:
        assert answer.read() == b"hello"
        assert answer.headers["X-Stamp"] == "7"


def test_a_proxy_is_ready_with_an_empty_registry(
    fairlead_proxy: Callable[[Mapping[str, Any]], FairleadProcess], fairlead_etcd: str
) -> None:
    registry = {"type": "etcd", "endpoints": [fairlead_etcd]}
    proxy = fairlead_proxy({"registry": registry, "routes": [{"service": "users"}]})
    assert proxy.status("/readyz") == 200
