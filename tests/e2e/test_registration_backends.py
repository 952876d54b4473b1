"""The contract of backends of registrations over the catalogue, each on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from proxy.catalog import REGISTRATION_BACKENDS, registry_options
from proxy.register.backend import RegistrationBackend, backends
from proxy.settings.registry import RemoteOptions
from tests.contract.test_registration_backends import (  # noqa: F401  # they are run here
    test_a_closed_backend_connects_anew,
    test_a_lease_that_is_revoked_takes_its_names_along_and_no_others,
    test_a_name_is_removed_at_the_revision_last_seen,
    test_a_name_that_another_lease_took_over_is_not_owned,
    test_a_write_for_another_revision_is_not_done_and_tells_what_there_is,
    test_a_written_record_is_found_and_owned_by_its_lease,
    test_as_many_names_as_a_batch_may_hold,
    test_of_several_writes_each_tells_what_became_of_it,
)
from tests.e2e.consul_server import ConsulServer, emptied
from tests.e2e.consul_server import missing as missing_consul
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.eureka_server import JAR, EurekaServer
from tests.e2e.eureka_server import emptied as emptied_eureka
from tests.e2e.zookeeper_server import ZooKeeperServer
from tests.e2e.zookeeper_server import missing as missing_zookeeper
from tests.support.scripted_eureka import ScriptedEureka
from tests.support.scripted_nacos import ScriptedNacos

SERVERS: dict[str, Callable[[], Any]] = {
    "consul": ConsulServer,
    "consul-kv": ConsulServer,
    "etcd": EtcdServer,
    "zookeeper": ZooKeeperServer,
}
"""By the name of the backend: an async context manager that gives a server with a `url`."""
SCRIPTED: dict[str, Callable[[], Any]] = {"eureka": ScriptedEureka, "nacos": ScriptedNacos}
"""The same, where there is no real one: it lives in the loop of its test."""
if JAR:
    SERVERS["eureka"] = EurekaServer
    del SCRIPTED["eureka"]
EMPTIED = {"consul": emptied, "eureka": emptied_eureka}
"""What empties those that have no prefix."""
MISSING = {
    **dict.fromkeys(("consul", "consul-kv"), missing_consul()),
    "zookeeper": missing_zookeeper(),
}
"""Programs that are not on this machine."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(REGISTRATION_BACKENDS))
async def server(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Any]]:
    if MISSING.get(request.param):
        pytest.skip(f"there is no {MISSING[request.param]} on this machine")
    if request.param in SCRIPTED:
        yield request.param, None
        return
    async with SERVERS[request.param]() as server:
        yield request.param, server


@pytest.fixture
async def own(
    server: tuple[str, Any], request: pytest.FixtureRequest
) -> AsyncIterator[RemoteOptions]:
    """An empty registry for each test, or a prefix of its own in it."""
    name, running = server
    kind = registry_options(name)
    if running is None:
        async with SCRIPTED[name]() as one:
            yield kind(endpoints=(one.url,))
    elif name in EMPTIED:
        await EMPTIED[name](running.url)
        yield kind(endpoints=(running.url,))
    else:
        end = "" if name == "zookeeper" else "/"
        prefix = f"{kind.root}{request.node.name}{end}"
        yield kind(endpoints=(running.url,), prefix=prefix)


@pytest.fixture
async def backend(own: RemoteOptions) -> AsyncIterator[RegistrationBackend]:
    [one] = backends(own, 5.0)
    yield one
    await one.close()


@pytest.fixture
async def other(own: RemoteOptions) -> AsyncIterator[RegistrationBackend]:
    [one] = backends(own, 5.0)
    yield one
    await one.close()
