"""`RegistrationBackend`: what the keeper of registrations needs of a registry.

| here     | etcd             | ZooKeeper            | Consul's keys | Consul, Eureka, Nacos       |
|----------|------------------|----------------------|---------------|-----------------------------|
| lease    | lease            | session              | session       | made here, in the metadata  |
| renew    | keep-alive       | ping                 | renew         | check passed, renewal, beat |
| owned    | keys of it       | its `ephemeralOwner` | check-session | known at the last renewal   |
| revision | of the last write| version of the node  | `ModifyIndex` | hash of what was read       |
| revoke   | revoke           | close the session    | destroy       | deregister, cancel, each    |

Adding one is a file with a subclass and a line in `REGISTRATION_BACKENDS` of `proxy/catalog.py`;
the contract tests run over that table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from proxy.catalog import REGISTRATION_BACKENDS, load, registry_options
from proxy.register.record import Health, Name
from proxy.settings.declare import keys_of
from proxy.settings.registry import RegistryOptions, RemoteOptions
from proxy.settings.tree import Scalar


class Lease(msgspec.Struct, frozen=True):
    """A lease that registrations hang on: they end when it does. A backend may extend it by what it
    needs to renew it, such as the password of a session."""

    id: int
    """Not 0, and unlike that of any other lease in the registry."""
    ttl: float
    """Seconds from the grant or the last renewal until it ends."""


class Found(msgspec.Struct, frozen=True):
    """The registry's entry under a name."""

    value: bytes
    """The record as JSON, whatever the registry makes of it."""
    revision: int
    """Not 0, and another one after each write to the name."""
    lease: int
    """Id of the one it hangs on; 0 = none."""


class Write(msgspec.Struct, frozen=True):
    """Write `value` (None: remove the name) if the name is still at `revision` (0: absent)."""

    name: Name
    value: bytes | None
    revision: int
    health: Health | None = None
    """The statement that the value carries, if it carries a new one."""


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of a write."""

    done: bool
    revision: int = 0
    """Of what was written."""
    found: Found | None = None
    """The entry that stands there, if the write was not done; None = there is none."""


class RegistrationBackend(ABC):
    """Owns the connection to one endpoint of a registry.

    Nothing is connected, read or checked before the first call, so it is built while the registry
    is down, and outside an event loop. Calls last `limit` seconds at most and raise RegistryError
    only: `Refused` when waiting does not change it, `LeaseLost` when the registry answers and says
    that the lease is no more. A call that raised may have been carried out.
    """

    name: ClassVar[str]
    batch: ClassVar[int]
    """Names that one call of `find` or `write` may be about."""

    def __init__(self, options: Any, url: str, limit: float) -> None:
        """`options`: the registry's keys, as its `Options` has them; `url`: one of its addresses;
        ValueError for one that cannot be."""
        self.url = url
        self._limit = limit

    @property
    def host(self) -> str | None:
        """Name or address of the endpoint's machine."""
        return urlsplit(self.url).hostname

    @property
    @abstractmethod
    def remedy(self) -> str:
        """Advice for an operator when the registry refuses: `check …`."""

    @abstractmethod
    def key(self, name: Name) -> str:
        """The registry's word for `name`, for people."""

    def id_of(self, host: str, address: str, port: int) -> str:
        """The id of an instance that has none, on the machine `host`: the same after a restart."""
        return f"{host}-{port}"

    @abstractmethod
    async def grant(self, ttl: float) -> Lease:
        """A new lease; the registry may make it longer. One whose answer got lost holds nothing and
        ends by itself. Where the registry knows no leases it is asked for something else: a lease
        means that it answers."""

    @abstractmethod
    async def renew(self, lease: Lease, names: Collection[Name]) -> float:
        """Seconds until it ends, from now. `names`: what was written under it."""

    @abstractmethod
    async def owned(self, lease: Lease, names: Collection[Name]) -> Collection[Name]:
        """Members of `names` that the registry holds under the lease, by as few calls as it takes,
        since it is asked after each renewal."""

    @abstractmethod
    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        """The registry's entry under each of `names`; None: there is none."""

    @abstractmethod
    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        """Carry out those whose condition holds, under the lease; all or nothing where the registry
        can. What is found instead may be what the condition asks for, if another's did not hold."""

    @abstractmethod
    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        """End the lease and what was written under it, `names`."""

    @abstractmethod
    async def close(self) -> None:
        """Release connections. Safe to call at any time; a call after it connects anew."""


def registry_at(url: str, *, secure: bool = False) -> RegistryOptions:
    """Options of the registry at `TYPE://host:port[,host:port…][/path]`; `secure`: under TLS.
    ValueError for anything else."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in REGISTRATION_BACKENDS:
        forms = ", ".join(f"{name}://host:port" for name in sorted(REGISTRATION_BACKENDS))
        raise ValueError(f"{url!r} is no registry in which services can register; allowed: {forms}")
    kind: type[RemoteOptions] = registry_options(scheme)
    hosts, _, path = rest.partition("/")
    form = kind.form.replace("http:", "https:") if secure else kind.form
    if path and kind.in_path:
        form, path = f"{form.partition('host:port')[0]}host:port/{path}", ""
    endpoints = (form.replace("host:port", host) for host in hosts.split(","))
    keys: dict[str, Any] = {
        "endpoints": tuple(read_key(kind, "endpoints", one) for one in endpoints)
    }
    if path:
        keys["prefix"] = read_key(kind, "prefix", kind.root + path)
    return kind(**keys)


def read_key(kind: type[RegistryOptions], name: str, text: str) -> Any:
    """The value of a registry's key, or of one of its items, as a file's is read. ValueError for
    one that it does not have, or a value that is not allowed."""
    key = keys_of(kind).get(name)
    if key is None or key.read is None:
        raise ValueError(f"{name} has no meaning for type {kind.type}")
    try:
        return key.read(Scalar(text, quoted=True))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def backends(options: RegistryOptions, limit: float) -> list[RegistrationBackend]:
    """Backends, one for each endpoint; `limit` seconds for each call. ValueError for options that
    cannot work."""
    if options.type not in REGISTRATION_BACKENDS:
        allowed = " or ".join(map(repr, sorted(REGISTRATION_BACKENDS)))
        raise ValueError(f"registry.type: {options.type!r}; a registrar needs {allowed}")
    if not options.addresses:
        raise ValueError("registry.endpoints: none given; allowed are http[s]://host[:port]")
    kind: type[RegistrationBackend] = load(REGISTRATION_BACKENDS, options.type)
    return [kind(options, url, limit) for url in options.addresses]
