"""The choice of a certificate: its names, and the one that the client asks for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_NAME = 255
"""Bytes of a name that is looked for; DNS has no longer ones."""


class NameTable:
    """The names of a listener's certificates. Frozen once it is made."""

    def __init__(self, pairs: Sequence[Sequence[str]], kinds: Sequence[str] = ()) -> None:
        """`pairs`: the names of each certificate; `kinds`: the type of its key, the same for all if
        left out."""
        kinds = kinds or [""] * len(pairs)
        exact: dict[str, dict[str, int]] = {}
        wild: dict[str, dict[str, int]] = {}
        for index, names in enumerate(pairs):  # ≤ names
            for name in names:  # ≤ names
                # A context holds one certificate of each kind, and the first one counts.
                table = wild if name.startswith("*.") else exact
                table.setdefault(name.removeprefix("*."), {}).setdefault(kinds[index], index)
        self._exact = {name: tuple(found.values()) for name, found in exact.items()}
        self._wild = {name: tuple(found.values()) for name, found in wild.items()}
        alike = {
            kind: index
            for index, kind in reversed([*enumerate(kinds)])
            if set(pairs[index]) == set(pairs[0])
        }
        self.default = tuple(sorted(alike.values()))
        """The first certificate, and those of other kinds with just the same names."""

    def find(self, name: str) -> tuple[int, ...]:
        """Indices of the certificates for a name, one of each kind: those that have the name
        itself, else those with a wildcard in the place of its first label. Empty = unknown."""
        wanted = _normal(name)
        found = self._exact.get(wanted)
        if found is None:
            label, _, above = wanted.partition(".")
            found = self._wild.get(above) if label else None
        return found or ()


def _normal(name: str) -> str:
    """A name as certificates have it; "" = it cannot be one of theirs."""
    if len(name) > LONGEST_NAME:
        return ""
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            return ""
    return name.lower().removesuffix(".")
