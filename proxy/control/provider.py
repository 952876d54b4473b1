"""The provider that the settings ask for: a registry, with what is put around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from proxy import catalog
from proxy.control.events import Events
from proxy.destinations import Destinations
from proxy.membership import Instance
from proxy.registry.base import Provider
from proxy.registry.decorators.snapshot_provider import SnapshotProvider
from proxy.settings.registry import MergedOptions, NamedRegistry, Registry


class ProviderError(Exception):
    """There is no provider for these settings. The text is one line for the operator."""


def build_provider(
    registry: Registry,
    events: Events,
    answers: Callable[[Instance], int],
    destinations: Destinations,
    known: Callable[[], bool],
    in_use: Callable[[], Provider | None],
) -> Provider:
    """The registry: with backups, then the guard over whichever is in use, then the file that
    remembers what is served. `answers` and `in_use`: as for `MassLossProvider`; `known`: something
    is served already, which the file would be older than."""

    if isinstance(registry.options, MergedOptions):

        def part(one: NamedRegistry, before: Callable[[], Provider | None]) -> Provider:
            return build_provider(one, events, answers, destinations, known, before)

        from proxy.registry.decorators.union_provider import UnionProvider

        return UnionProvider(registry.options.parts, part, before=in_use)

    def publish(kind: str, /, **fields: Any) -> None:
        events.publish(kind, time.time(), **fields)

    try:
        provider: Provider = catalog.provider(registry.options)
        if registry.backups:
            from proxy.registry.decorators.failover_provider import FailoverProvider

            choices = (registry, *registry.backups)
            registries = [choice.options for choice in choices]
            provider = FailoverProvider(registries, catalog.provider, registry, on_event=publish)
        if registry.mass_loss_guard is not None:
            from proxy.registry.decorators.mass_loss_provider import MassLossProvider

            provider = MassLossProvider(
                provider,
                registry.mass_loss_guard,
                answers=answers,
                on_event=publish,
                destinations=destinations,
                before=in_use,
            )
        if registry.snapshot is not None:
            provider = SnapshotProvider(provider, registry.snapshot, on_event=publish, known=known)
        return provider
    except (OSError, ValueError) as error:
        # A certificate that cannot be read, for example.
        raise ProviderError(f"registry: {error}") from error
    except Exception as error:
        if registry.type in catalog.PROVIDERS:
            raise
        said = f"{type(error).__name__}: {error}"
        raise ProviderError(f"registry: {registry.type}: {said}") from error
