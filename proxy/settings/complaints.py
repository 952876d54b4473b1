"""Complaints about a file that cannot be used: all of them at once, each with its line."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proxy.settings.read import escaped
from proxy.settings.tree import Document, Path


class Complaint(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where. `str()` is the line that `fairlead check` prints."""

    file: str
    line: int | None
    """Line of the complaint; None = the file as a whole."""
    path: str
    """`services.users.timeouts.connect`, `routes.0.host`; "" = the file as a whole."""
    message: str
    """Text of the complaint: what is wrong; what is allowed."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used. `complaints` holds all there are, in file order."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("\n".join(map(str, self.complaints)))


def dotted(path: Path) -> str:
    """A place as complaints name it."""
    return ".".join(map(str, path))


class Report:
    """Owns the complaints about one file."""

    def __init__(self, file_name: str, document: Document) -> None:
        self.complaints: list[Complaint] = []
        self._file = file_name
        self._lines = document.lines
        self._files = document.files
        self.broken = document.broken
        """Places whose value could not be had."""
        self._suspect: set[Path] = set()
        self._around: set[Path] = set()
        """The suspect places, and everything that holds one of them."""
        self.misspelt: set[Path] = set()
        """Mappings with unknown keys: what seems to be missing from them may be one of those."""
        for problem in document.problems:
            self._add(problem.line, problem.path, problem.message, problem.file)

    def complain(self, path: Path, message: str) -> None:
        """About a place that is in the file, or a key that is missing from one that is."""
        place = path
        while place and place not in self._lines:
            place = place[:-1]
        self._add(self._lines.get(place, 1), path, message)

    def exists(self, path: Path) -> bool:
        """The place stands in the file."""
        return path in self._lines

    def sound(self, *paths: Path) -> bool:
        """No complaint yet about any of these places, what is around or what is in them."""
        return not any(
            path in self._around or any(path[:n] in self._suspect for n in range(1, len(path)))
            for path in paths
        )

    def error(self) -> ConfigError:
        """All complaints, in the order of the file."""
        return ConfigError(
            sorted(
                self.complaints,
                key=lambda one: (one.file != self._file, one.file, one.line or 0, one.path),
            )
        )

    def _add(self, line: int | None, path: Path, message: str, file: str = "") -> None:
        place = escaped(dotted(path))
        file = file or self._files.get(path[:2], self._file)
        self.complaints.append(Complaint(file, line, place, escaped(message)))
        if path:
            self._suspect.add(path)
            self._around.update(path[:n] for n in range(1, len(path) + 1))
