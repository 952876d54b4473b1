"""Successors of what is in use, made ready beside it by a reload: all that can be wrong is known
before anything is touched."""

from __future__ import annotations

import msgspec

from proxy.control.certificates import CertificateError, Certificates
from proxy.control.provider import ProviderError
from proxy.control.registry_watch import close_provider
from proxy.control.supervisor import Supervisor
from proxy.registry.base import Provider
from proxy.settings.file import Settings
from proxy.settings.registry import Registry


class Unusable(Exception):
    """A configuration cannot be put in force. The text is one line for the operator."""


class Successors:
    """Owns what is ready, until it is taken or given up."""

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self.certificates: Certificates = supervisor.certificates.successor(settings)
        self._provider: Provider | None = None
        """Of another registry; None = it stays."""

    async def prepare(self) -> None:
        """Make everything ready. Raises `Unusable`; `close` is to be called then, too."""
        before, settings = self._supervisor.settings, self._settings
        try:
            await self.certificates.start()
            if _watched(settings.registry) != _watched(before.registry):
                self._provider = self._supervisor.watch.build(settings.registry)
        except (CertificateError, ProviderError) as error:
            raise Unusable(str(error)) from None

    def take(self) -> None:
        """Put it in the place of what is in use."""
        provider, self._provider = self._provider, None
        if provider is not None:
            self._supervisor.watch.follow(self._settings.registry, provider)

    async def close(self) -> None:
        """Release what was not taken."""
        if self._provider is not None:
            await close_provider(self._provider)


def _watched(registry: Registry) -> Registry:
    """The part that is its provider's."""
    return msgspec.structs.replace(registry, allow=())
