"""Several registries as one provider. How their memberships are joined is decided in `union.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import structlog

from proxy.membership import Departure, Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.base import Composed
from proxy.registry.decorators.union import Union
from proxy.settings.registry import NamedRegistry
from proxy.statuses import RegistrySource, RegistryStatus

log = structlog.get_logger()

PATIENCE = 5.0
"""Seconds after the start in which all registries are waited for. A proxy that knows nobody yet
does not leave the services of one registry without it because another one is down."""


class UnionProvider(Composed):
    """Owns a provider for each registry, and what they say."""

    name: ClassVar[str] = "merged"

    def __init__(
        self,
        parts: Sequence[NamedRegistry],
        make: Callable[[NamedRegistry, Callable[[], Provider | None]], Provider],
        *,
        before: Callable[[], Provider | None] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        """`make`: a provider for one of them; it gets what `before` gives, for that part. `before`:
        the provider in use, whose place this one takes with its first membership."""
        super().__init__()
        self._before = before
        self._patience = patience
        self._parts = parts
        self._providers = {
            part.name: make(part, lambda name=part.name: self._part_before(name))  # type: ignore[misc]  # a lambda's default
            for part in parts
        }
        self._union = Union(list(self._providers))
        self._waits = True

    def status(self) -> RegistryStatus:
        statuses = {name: provider.status() for name, provider in self._providers.items()}
        every = list(statuses.values())
        errors = [f"{name}: {one.last_error}" for name, one in statuses.items() if one.last_error]
        ages = [one.age for one in every]
        known = [age for age in ages if age is not None]
        return RegistryStatus(
            provider=self.name,
            connected=all(one.connected for one in every),
            endpoint=", ".join(one.endpoint for one in every if one.endpoint) or None,
            age=max(known) if len(known) == len(ages) else None,
            instances=sum(map(len, self._union.membership().services.values())),
            sessions=sum(one.sessions for one in every),
            connects=sum(one.connects for one in every),
            answers=sum(one.answers for one in every),
            errors=sum(one.errors for one in every),
            formats=self._union.origins(),
            invalid=tuple(_named(statuses, lambda one: one.invalid)),
            odd=tuple(_named(statuses, lambda one: one.odd)),
            resyncs=_sum(one.resyncs for one in every),
            differences=sum(one.differences for one in every),
            last_error="; ".join(errors) or None,
            sources=tuple(self._sources(statuses)),
            switches=sum(one.switches for one in every),
            retained=tuple(held for one in every for held in one.retained),
            retained_total=sum(one.retained_total for one in every),
            snapshot=next((one.snapshot for one in every if one.snapshot), None),
            parts=statuses,
        )

    async def alive(self) -> bool:
        """See `Provider`: one of them is enough to know somebody."""
        found = await asyncio.gather(*(one.alive() for one in self._providers.values()))
        return any(found)

    async def expired(self, departure: Departure) -> bool | None:
        """Never known: each registry has a guard of its own, inside."""
        return None

    async def close(self) -> None:
        await super().close()
        for provider in self._providers.values():
            await provider.close()

    def _work(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._be_patient(), *map(self._follow, self._providers))

    def _current(self) -> Membership | None:
        if self._union.missing:
            before = self._before()
            if isinstance(before, UnionProvider) and before is not self:
                self._union.adopt(before._union)
        missing = self._union.missing
        if len(missing) == len(self._parts) or (missing and (self._waits or self._replaces())):
            return None
        return self._union.membership()

    def _replaces(self) -> bool:
        """Whether there is another provider that serves until this one knows all."""
        before = self._before()
        return before is not None and before is not self

    async def _follow(self, name: str) -> None:
        async for membership in self._providers[name].watch():
            self._union.take(name, membership)
            self._changed.set()

    async def _be_patient(self) -> None:
        await asyncio.sleep(self._patience)
        self._waits = False
        if missing := self._union.missing:
            log.warning("registries_not_reached", registries=missing, effect="the others are used")
        self._changed.set()

    def _part_before(self, name: str) -> Provider | None:
        before = self._before()
        return before._providers.get(name) if isinstance(before, UnionProvider) else None

    def _sources(self, statuses: Mapping[str, RegistryStatus]) -> Iterable[RegistrySource]:
        for part in self._parts:
            status = statuses[part.name]
            if status.sources:
                yield from (
                    msgspec.structs.replace(source, name=part.name) for source in status.sources
                )
            else:
                yield RegistrySource(
                    name=part.name,
                    provider=part.type,
                    endpoints=part.options.addresses,
                    active=part.name not in self._union.missing,
                    alive=status.connected,
                )


def _named(statuses: Mapping[str, RegistryStatus], of: Callable[[RegistryStatus], Any]) -> Any:
    """Records of all registries, with the registry's name in front of the key."""
    for name, status in statuses.items():
        for record in of(status):
            yield msgspec.structs.replace(record, key=f"{name}: {record.key}")


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for reason, count in one.items():
            found[reason] = found.get(reason, 0) + count
    return found
