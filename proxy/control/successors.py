"""Successors of what is in use, made ready beside it by a reload: all that can be wrong is known
before anything is touched."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from proxy import log as log_setup
from proxy.control.acme import Acme, StorageError
from proxy.control.certificates import CertificateError, Certificates
from proxy.control.provider import ProviderError
from proxy.control.registry_watch import close_provider
from proxy.control.shared_config import proxy_id
from proxy.control.sockets import BindError, Listening, listen_alone
from proxy.control.supervisor import Supervisor
from proxy.registry.base import Provider
from proxy.settings.file import Settings
from proxy.settings.fleet import etcd_of
from proxy.settings.registry import Registry

if TYPE_CHECKING:
    from proxy.control.acme_fleet import AcmeFleet

log = structlog.get_logger()


class Unusable(Exception):
    """A configuration cannot be put in force. The text is one line for the operator."""


class AdminServer(Protocol):
    """The admin server, as a reload changes it."""

    sock: socket.socket

    async def follow(self, settings: Settings, sock: socket.socket, /) -> None:
        """Go on with another configuration."""


def bind_admin(bind: str, beside: socket.socket | None = None) -> socket.socket:
    """The admin server's socket; see `listen_alone`. Raises `Unusable`."""
    try:
        sock = listen_alone(bind, beside)
    except BindError as error:
        raise Unusable(f"admin: cannot listen on {error}") from error
    if sock is not beside:
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        log.info("admin_listening", address=shown)
    return sock


async def open_acme(whole: Settings, before: Acme | None = None) -> Acme | None:
    """Orders of certificates by these settings, started, if there are any. `before`: those in use.
    Raises `Unusable`."""
    settings = whole.acme
    if settings is None:
        return None
    fleet = _acme_fleet(whole)
    if before is None:
        acme = Acme(settings, _obtain, fleet=fleet)
    else:
        acme = before.successor(settings, fleet)
    try:
        await acme.start()
    except StorageError as error:
        raise Unusable(f"acme: {error}") from None
    return acme


def _acme_fleet(settings: Settings) -> AcmeFleet | None:
    """Make the way to what a fleet has in common, if the settings say so."""
    acme = settings.acme
    if acme is None or not acme.storage.key_file:
        return None
    from proxy.control.acme_fleet import AcmeFleet  # Loads the client of etcd.
    from proxy.registry.etcd.options import Options

    registry = etcd_of(settings.registry, acme.storage.registry)
    assert registry is not None, "is checked"
    assert isinstance(registry.options, Options)
    return AcmeFleet(acme, registry.options, proxy_id(settings))


def _acme_of(settings: Settings) -> tuple[object, ...]:
    """Settings that orders depend on, all together."""
    acme = settings.acme
    shared = acme is not None and acme.storage.key_file
    return acme, etcd_of(settings.registry, acme.storage.registry) if shared and acme else None


def _obtain(*given: Any) -> Awaitable[bytes]:
    # Loads all of aiohttp's client, which must not delay the start of the workers.
    from proxy.control.acme_client import obtain

    return obtain(*given)


class Successors:
    """Owns what is ready, until it is taken or given up."""

    def __init__(self, supervisor: Supervisor, admin: AdminServer, settings: Settings) -> None:
        self._supervisor = supervisor
        self._admin = admin
        self._settings = settings
        self.certificates: Certificates = supervisor.certificates.successor(settings)
        self.listening: Sequence[Listening] = ()
        """Sockets of its listeners."""
        self._provider: Provider | None = None
        """Of another registry; None = it stays."""
        self._acme = supervisor.orders.acme
        """Orders certificates; the one that there is if it stays."""
        self._socket = admin.sock
        """For the admin server; the one that there is if it stays."""

    @property
    def admin_port(self) -> int:
        """Port of the admin server."""
        port: int = self._socket.getsockname()[1]
        return port

    async def prepare(self) -> None:
        """Make everything ready. Raises `Unusable`; `close` is to be called then, too."""
        before, settings = self._supervisor.settings, self._settings
        if settings.user != before.user:
            raise Unusable("user: is settled when the proxy starts: restart it")
        try:
            await self.certificates.start()
            if _acme_of(settings) != _acme_of(before):
                self._acme = await open_acme(settings, self._acme)
            if settings.admin.bind != before.admin.bind:
                self._socket = bind_admin(settings.admin.bind, self._admin.sock)
            if _watched(settings.registry) != _watched(before.registry):
                self._provider = self._supervisor.watch.build(settings.registry)
            # Last: what was not taken in the end is closed by whoever puts back what was before.
            self.listening = await self._supervisor.crew.listeners.prepare_in_time(
                settings.listeners, settings.workers
            )
        except (BindError, CertificateError, ProviderError) as error:
            raise Unusable(str(error)) from None

    def take(self) -> None:
        """Put it in the place of what is in use."""
        log_setup.set_up(self._settings.log)
        if self._acme is not self._supervisor.orders.acme:
            self._supervisor.orders.use(self._acme)
        provider, self._provider = self._provider, None
        if provider is not None:
            self._supervisor.watch.follow(self._settings.registry, provider)

    async def finish(self) -> None:
        """Do what takes time, once it has been taken."""
        await self._admin.follow(self._settings, self._socket)

    async def close(self) -> None:
        """Release what was not taken."""
        if self._provider is not None:
            await close_provider(self._provider)
        if self._socket is not self._admin.sock:
            self._socket.close()


def _watched(registry: Registry) -> Registry:
    """The part that is its provider's."""
    return msgspec.structs.replace(registry, allow=())
