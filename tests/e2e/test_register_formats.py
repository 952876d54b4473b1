"""Registering in the formats of others, in real registries, and what a provider makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.catalog import PROVIDERS, load
from proxy.register import Record, Registrar
from proxy.register.backend import backends
from proxy.registry.formats.writing import WRITTEN
from tests.e2e.drilled import TIMING, Drilled, Watched
from tests.e2e.every_registry import DRILLED
from tests.support.processes import eventually


@pytest.mark.parametrize("name", WRITTEN)
async def test_an_instance_is_registered_in_a_format_while_it_is_healthy(name: str) -> None:
    if DRILLED[name].missing:
        pytest.skip(f"there is no {DRILLED[name].missing} on this machine")
    async with DRILLED[name]() as registry:
        for form in WRITTEN[name]:
            await registered_in(form, registry)


async def registered_in(form: str, registry: Drilled) -> None:
    prefix = {"zookeeper": f"/{form}", "consul-kv": f"services/{form}/"}
    keys = {"prefix": prefix.get(registry.type, f"/{form}/"), "format": form}
    options: Any = msgspec.structs.replace(registry.options(), **keys)
    writing: Any = msgspec.structs.replace(registry.writing(), **keys)
    record = Record(service="users", address="10.0.0.5", port=8080)
    provider = load(PROVIDERS, registry.type)(options, timing=TIMING)
    async with Watched(provider) as seen, Registrar(record, registry=writing, ttl=4) as registrar:

        async def becomes(number: int) -> None:
            await eventually(lambda: len(seen.pool) == number, 15.0, lambda: (form, seen.status))

        await becomes(1)
        [found] = seen.pool
        assert (found.address, found.port, found.origin) == ("10.0.0.5", 8080, form)
        assert registrar.registrations[0].record.id == found.id
        for _ in range(2):
            await registrar.update_health("unhealthy", "cold")
            await becomes(0)
            assert registrar.registered
            await registrar.update_health("healthy", "")
            await becomes(1)
        await registrar.remove(*registrar.registrations)
        await becomes(0)


@pytest.mark.parametrize(
    ("name", "form", "words"),
    [
        (
            "etcd",
            "curator",
            "'curator' is not written in etcd; allowed: 'fairlead', 'text', 'grpc'",
        ),
        (
            "zookeeper",
            "grpc",
            "'grpc' is not written in zookeeper; allowed: 'fairlead', 'text', 'cur",
        ),
    ],
)
def test_a_format_that_nobody_writes_there_is_refused(name: str, form: str, words: str) -> None:
    options: Any = msgspec.structs.replace(DRILLED[name]().options(), format=form)
    with pytest.raises(ValueError, match=words):
        backends(options, 5.0)
