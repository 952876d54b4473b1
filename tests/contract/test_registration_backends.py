"""What every backend of registrations owes the keeper. Here over a registry in memory, of both
kinds; `tests/e2e/test_registration_backends.py` runs the same over the catalogue, on servers."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from proxy.catalog import REGISTRATION_BACKENDS, load, registry_options
from proxy.register.backend import Lease, RegistrationBackend, Write, backends
from proxy.register.record import Name, Record
from proxy.registry.base import LeaseLost, RegistryError
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.static.options import Options as StaticOptions
from proxy.settings.registry import RegistryOptions
from tests.support.memory_registry import MemoryBackend, MemoryRegistry
from tests.support.processes import free_port

A, B = ("users", "a"), ("users", "b")
TTL = 10.0


def value(name: Name, version: str = "ü") -> bytes:
    # An endpoint of its own: that is how some registries tell instances apart.
    port = 80 + sum(name[1].encode())
    record = Record(service=name[0], id=name[1], address="10.0.0.1", port=port, version=version)
    return record.value(datetime(2026, 1, 1, tzinfo=UTC))


async def stated(backend: RegistrationBackend, name: Name) -> object:
    """The document under a name."""
    [found] = await backend.find([name])
    return None if found is None else json.loads(found.value)


async def revision(backend: RegistrationBackend, name: Name) -> int:
    [found] = await backend.find([name])
    return 0 if found is None else found.revision


async def written(backend: RegistrationBackend, lease: Lease, *writes: Write) -> list[bool]:
    return [outcome.done for outcome in await backend.write(lease, writes)]


@pytest.fixture(params=["one lease for all", "beats for each"])
def registry(request: pytest.FixtureRequest) -> MemoryRegistry:
    return MemoryRegistry(time.monotonic, beats=request.param == "beats for each")


@pytest.fixture
def backend(registry: MemoryRegistry) -> RegistrationBackend:
    """Connected to an empty registry."""
    return registry.backend()


@pytest.fixture
def other(registry: MemoryRegistry) -> RegistrationBackend:
    """Another process's, connected to the same."""
    return registry.backend()


async def test_a_written_record_is_found_and_owned_by_its_lease(
    backend: RegistrationBackend, other: RegistrationBackend
) -> None:
    lease = await backend.grant(TTL)
    assert lease.id != 0
    assert lease.ttl >= TTL
    assert await backend.find([A, B]) == [None, None]
    [outcome] = await backend.write(lease, [Write(A, value(A), 0)])
    assert outcome.done
    [found, nobody] = await other.find([A, B])
    assert nobody is None
    assert found is not None
    assert (found.revision, found.lease) == (outcome.revision, lease.id)
    assert json.loads(found.value) == json.loads(value(A))
    assert set(await backend.owned(lease, [A, B])) == {A}
    assert 0 < await backend.renew(lease, [A]) <= lease.ttl


async def test_a_write_for_another_revision_is_not_done_and_tells_what_there_is(
    backend: RegistrationBackend,
) -> None:
    lease = await backend.grant(TTL)
    [first] = await backend.write(lease, [Write(A, value(A), 0)])
    for wrong in (0, first.revision + 10**9):
        for new in (value(A, "2"), None):
            [refused] = await backend.write(lease, [Write(A, new, wrong)])
            assert not refused.done
            assert refused.found is not None
            assert refused.found.revision == first.revision
    [absent] = await backend.write(lease, [Write(B, value(B), first.revision)])
    assert (absent.done, absent.found) == (False, None)
    assert await stated(backend, A) == json.loads(value(A))
    assert await written(backend, lease, Write(A, value(A, "2"), first.revision)) == [True]
    assert await revision(backend, A) not in (0, first.revision)
    assert await stated(backend, A) == json.loads(value(A, "2"))


async def test_a_name_is_removed_at_the_revision_last_seen(backend: RegistrationBackend) -> None:
    lease = await backend.grant(TTL)
    await backend.write(lease, [Write(A, value(A), 0)])
    assert await written(backend, lease, Write(A, None, await revision(backend, A))) == [True]
    assert await stated(backend, A) is None
    assert not await backend.owned(lease, [A])


async def test_of_several_writes_each_tells_what_became_of_it(backend: RegistrationBackend) -> None:
    """Whether those that could have been done are, is the registry's business."""
    lease = await backend.grant(TTL)
    await backend.write(lease, [Write(A, value(A), 0)])
    good, bad = await backend.write(lease, [Write(B, value(B), 0), Write(A, value(A, "2"), 0)])
    assert not bad.done
    assert bad.found is not None
    assert good.done == (await stated(backend, B) is not None)
    assert good.done or good.found is None
    assert await stated(backend, A) == json.loads(value(A))


async def test_as_many_names_as_a_batch_may_hold(backend: RegistrationBackend) -> None:
    lease = await backend.grant(TTL)
    names = [("users", f"i{n}") for n in range(backend.batch)]
    assert all(await written(backend, lease, *(Write(name, value(name), 0) for name in names)))
    assert None not in await backend.find(names)
    assert set(await backend.owned(lease, names)) == set(names)


async def test_a_lease_that_is_revoked_takes_its_names_along_and_no_others(
    backend: RegistrationBackend, other: RegistrationBackend
) -> None:
    lease, another = await backend.grant(TTL), await other.grant(TTL)
    await backend.write(lease, [Write(A, value(A), 0)])
    await other.write(another, [Write(B, value(B), 0)])
    await backend.revoke(lease, [A, B])
    assert await stated(other, A) is None
    assert await stated(other, B) is not None
    try:
        await backend.renew(lease, [A])
        assert not await backend.owned(lease, [A, B])
    except LeaseLost:
        pass


async def test_a_name_that_another_lease_took_over_is_not_owned(
    backend: RegistrationBackend, other: RegistrationBackend
) -> None:
    lease, newer = await backend.grant(TTL), await other.grant(TTL)
    assert newer.id != lease.id
    await backend.write(lease, [Write(A, value(A), 0)])
    assert await written(other, newer, Write(A, value(A, "2"), await revision(other, A))) == [True]
    assert not await backend.owned(lease, [A])
    [found] = await backend.find([A])
    assert found is not None
    assert found.lease == newer.id
    await backend.renew(lease, [A])
    await backend.revoke(lease, [A])
    assert await stated(other, A) == json.loads(value(A, "2"))


async def test_a_closed_backend_connects_anew(backend: RegistrationBackend) -> None:
    lease = await backend.grant(TTL)
    await backend.close()
    await backend.close()
    assert await written(backend, lease, Write(A, value(A), 0)) == [True]


# ------------------------------------------------------------------- without any registry


@pytest.fixture(params=[*sorted(REGISTRATION_BACKENDS), "memory"])
def unreachable(request: pytest.FixtureRequest) -> RegistrationBackend:
    """Built outside any event loop, for an endpoint at which nobody answers."""
    if request.param == MemoryBackend.name:
        registry = MemoryRegistry(time.monotonic)
        registry.down = {"memory://a"}
        return registry.backend()
    url = f"http://127.0.0.1:{free_port()}"
    settings = registry_options(request.param)(endpoints=(url,))
    kind: type[RegistrationBackend] = load(REGISTRATION_BACKENDS, request.param)
    backend = kind(settings, url, 1.0)
    assert (backend.name, backend.url, backend.host) == (request.param, url, "127.0.0.1")
    return backend


async def test_a_registry_that_does_not_answer_is_an_error_of_the_registry(
    unreachable: RegistrationBackend,
) -> None:
    lease = Lease(7, TTL)
    for call in (
        lambda: unreachable.grant(TTL),
        lambda: unreachable.renew(lease, [A]),
        lambda: unreachable.owned(lease, [A]),
        lambda: unreachable.find([A]),
        lambda: unreachable.write(lease, [Write(A, value(A), 0)]),
        lambda: unreachable.revoke(lease, [A]),
    ):
        with pytest.raises(RegistryError):
            await call()
    await unreachable.close()


def test_a_backend_says_what_it_calls_a_name_and_what_to_look_at(
    unreachable: RegistrationBackend,
) -> None:
    assert unreachable.key(A).endswith("users/a")
    assert unreachable.remedy.startswith("check ")
    assert unreachable.batch >= 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (StaticOptions(), "registry.type: 'static'.*'etcd'"),
        (EtcdOptions(), "registry.endpoints"),
        (EtcdOptions(endpoints=("ftp://h",)), "ftp://h"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(
    settings: RegistryOptions, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        backends(settings, 1.0)
