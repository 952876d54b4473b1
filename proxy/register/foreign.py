"""Registering under keys below a prefix, in a format of others where these are found."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from proxy.register.backend import RegistrationBackend, Write
from proxy.register.record import Name
from proxy.registry.formats.layout import AUTO, literal
from proxy.registry.formats.writing import PREFIXES, WRITTEN, id_in, key_end, written


def place_of(registry: str, form: str) -> str | None:
    """The prefix below which readers of the format look; None: below any."""
    return PREFIXES.get((registry, form))


class Form:
    """Owns the names without a key: in a format of others an instance that is not healthy has none.
    In ours everything is as it is."""

    def __init__(self, registry: str, form: str) -> None:
        """ValueError for a format that nobody writes there."""
        known = WRITTEN[registry]
        if form not in (AUTO, "fairlead", *known):
            allowed = ", ".join(map(repr, ("fairlead", *known)))
            raise ValueError(
                f"registry.format: {form!r} is not written in {registry}; allowed: {allowed}"
            )
        self._registry = registry
        self.name = form if form in known else ""
        """"" = ours."""
        self._withheld: set[Name] = set()  # ≤ registrations

    def withheld(self, names: Collection[Name]) -> Collection[Name]:
        """Members of `names` that have no key since they are to have none."""
        return self._withheld.intersection(names)

    def value(self, write: Write) -> bytes | None:
        """The value to write; None: there is to be no key."""
        if not self.name or write.value is None:
            return write.value
        return written(self._registry, self.name, write.value)

    def revision(self, write: Write) -> int:
        """The revision that the key must have; 0: it must not be there."""
        return 0 if write.name in self._withheld else write.revision

    def wrote(self, write: Write, done: bool) -> None:
        """A write was done, or not."""
        self._withheld.discard(write.name)
        if done and write.value is not None and self.value(write) is None:
            self._withheld.add(write.name)

    def found(self, value: bytes) -> bytes:
        """The record of ours in a value; one of others is none, which could be kept."""
        return b"" if self.name else value


class KeyedBackend(RegistrationBackend):
    """Owns the names of instances below a prefix, in the format that is asked for."""

    def __init__(self, options: Any, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._prefix = literal(options.prefix)
        self._form = Form(self.name, options.format)

    def key(self, name: Name) -> str:
        """See `RegistrationBackend`."""
        return f"{self._prefix}{name[0]}/{key_end(self._form.name, name[1])}"

    def id_of(self, host: str, address: str, port: int) -> str:
        """See `RegistrationBackend`."""
        return id_in(self.name, self._form.name, host, address, port)
