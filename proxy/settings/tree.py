"""A configuration file as a tree that remembers where everything stands."""

from __future__ import annotations

from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the file; `()` is the file itself."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as text. Which type it has is for the schema to say."""

    text: str
    quoted: bool = False
    """Written in quotes or as a block: meant as text."""
    written: str | None = None
    """Text in the file, when variables were replaced in it; None = none were."""

    @property
    def empty(self) -> bool:
        """`key:` without a value, or YAML's null. A variable's empty value is empty text."""
        return (
            not self.quoted
            and self.written is None
            and self.text in ("", "~", "null", "Null", "NULL")
        )

    @property
    def literal(self) -> bool:
        """Whether the value may be read as a number or a switch: not in quotes, or from a
        variable."""
        return not self.quoted or self.written is not None


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in the file as YAML."""

    line: int | None
    path: Path
    message: str
    file: str = ""
    """Name of an included file; empty = the first one."""


@dataclass(slots=True)
class Document:
    """A file's tree, and where everything in it stands."""

    root: object = None
    """`Scalar`, `dict[str, …]` or `list[…]`; None = an empty file or unreadable YAML."""
    lines: dict[Path, int] = field(default_factory=dict)
    """Of an entry of a mapping its key's line, of an item of a list the line it begins on."""
    problems: list[Problem] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    """Places whose value could not be had."""
    files: dict[Path, str] = field(default_factory=dict)
    """A service or a route → the included file in which it stands."""
