"""Registering among Consul's keys: what is its own. What it shares with other registries is in
`test_registration_backends.py` and `test_registration_outages.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from proxy.register import Record, Registrar, RegistryRefused
from proxy.register.backend import RegistrationBackend, Write, backends
from proxy.registry.base import Refused, RegistryError
from proxy.registry.consul_kv.options import Options
from tests.e2e.consul_server import MANAGEMENT, ConsulServer, missing
from tests.support.processes import eventually

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"there is no {missing()}")

NAME = ("users", "a")
KEY = "/v1/kv/services/users/a"
RECORD = Record(service="users", id="a", address="10.0.0.1", port=8080)


@pytest.fixture
async def consul() -> AsyncIterator[ConsulServer]:
    async with ConsulServer(acl=True) as server:
        yield server


def options(consul: ConsulServer, **keys: Any) -> Options:
    known = Options(endpoints=(consul.url,), token=MANAGEMENT)
    return msgspec.structs.replace(known, **keys)


def backend(consul: ConsulServer, **keys: Any) -> RegistrationBackend:
    [one] = backends(options(consul, **keys), 5.0)
    return one


async def held(consul: ConsulServer, lock_delay: str) -> str:
    """A session of somebody else that holds the key."""
    asked = {"Behavior": "delete", "LockDelay": lock_delay}
    session: str = (await consul.put("/v1/session/create", asked))["ID"]
    assert await consul.put(f"{KEY}?acquire={session}", {"address": "10.0.0.2", "port": 1})
    return session


async def test_a_session_hangs_on_its_time_alone(consul: ConsulServer) -> None:
    """Not on the health of its node; and whoever comes next has not to wait for its keys."""
    registrar = backend(consul, datacenter="dc1")
    lease = await registrar.grant(4.5)
    assert lease.ttl == 10.0
    [session] = await consul.get("/v1/session/list")
    assert (session["TTL"], session["Behavior"]) == ("10s", "delete")
    assert (session["LockDelay"], session["NodeChecks"]) == (0, [])
    await registrar.close()


async def test_a_session_that_somebody_ended_is_followed_by_another(consul: ConsulServer) -> None:
    async with Registrar(RECORD, registry=options(consul), ttl=10):
        [first] = await consul.get("/v1/session/list")
        await consul.put(f"/v1/session/destroy/{first['ID']}")

        async def again() -> bool:
            try:
                [pair] = await consul.get(KEY)
            except AssertionError:  # There is none for a moment.
                return False
            return bool(pair["Session"] != first["ID"])

        await eventually(again, 15.0)
    assert await consul.get("/v1/session/list") == []


async def test_a_key_of_another_session_is_taken_over_at_once(consul: ConsulServer) -> None:
    await held(consul, "15s")
    async with Registrar(RECORD, registry=options(consul), ttl=10):
        [pair] = await consul.get(KEY)
        [session] = [
            one for one in await consul.get("/v1/session/list") if one["ID"] == pair["Session"]
        ]
        assert session["Name"] == "fairlead"


async def test_a_key_that_is_barred_for_a_while_is_written_then(consul: ConsulServer) -> None:
    """A session that ended has its keys barred for its `LockDelay`, unless it says 0."""
    session = await held(consul, "2s")
    await consul.put(f"/v1/session/destroy/{session}")
    registrar = backend(consul)
    lease = await registrar.grant(10.0)
    with pytest.raises(RegistryError, match="lock delay") as raised:
        await registrar.write(lease, [Write(NAME, b"{}", 0)])
    assert not isinstance(raised.value, Refused)
    await registrar.close()
    async with Registrar(RECORD, registry=options(consul), ttl=10) as one:
        assert one.registered


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ('key_prefix "services/" { policy = "write" }', "/v1/session/create"),
        (
            'key_prefix "services/" { policy = "read" } session_prefix "" { policy = "write" }',
            "/v1/txn: Permission denied",
        ),
    ],
    ids=["no session", "no key"],
)
async def test_a_token_that_may_not_is_refused_with_what_it_needs(
    consul: ConsulServer, rules: str, words: str
) -> None:
    await consul.put("/v1/acl/policy", {"Name": "writer", "Rules": rules})
    token = (await consul.put("/v1/acl/token", {"Policies": [{"Name": "writer"}]}))["SecretID"]
    with pytest.raises(RegistryRefused, match=f'{words}.*key_prefix "services/"'):
        async with Registrar(RECORD, registry=options(consul, token=token), ttl=10):
            pass
