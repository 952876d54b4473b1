"""`include:`, further files whose services, filters and routes are added to those of the first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Final

from proxy import files
from proxy.settings import yaml_lines
from proxy.settings.tree import Document, Path, Problem, Scalar

MAX_FILE: Final = 1024 * 1024
"""Bytes; room for 15,000 static instances. PyYAML needs a second for that much, and some ten
without libyaml; nobody waits longer for a start."""
_MOST: Final = 1000
"""Files; a thousand teams, each with one of its own."""
_SECTIONS: Final = {"services": "service", "filters": "filter", "routes": ""}
"""And the word for one entry, where each has a name."""


def read_with_included(text: str, file: FilePath, environ: Mapping[str, str]) -> Document:
    """The tree of a file's text, with what the files add that it includes. Never raises: what is
    wrong is in `problems`."""
    document = yaml_lines.read(text, environ)
    root = document.root
    if not isinstance(root, dict) or not isinstance(patterns := root.get("include"), list):
        return document
    for at, pattern in enumerate(patterns):
        place: Path = ("include", at)
        if not isinstance(pattern, Scalar) or place in document.broken:
            continue  # The reader of the key says what is wrong with it.
        names = _names(file.parent, pattern.text)
        if not names and not set("*?[") & set(pattern.text):
            _complain(document, place, f'there is no "{pattern.text}"; allowed: files, or patterns')
        if len(document.files) + len(names) > _MOST:
            _complain(document, place, f"there are more files than {_MOST}; allowed: fewer")
            return document
        for name in names:
            _add(document, root, place, name, environ)
    return document


def _names(directory: FilePath, pattern: str) -> list[FilePath]:
    try:
        if FilePath(pattern).is_absolute():
            return sorted(FilePath("/").glob(pattern.lstrip("/")))
        return sorted(directory.glob(pattern))
    except (ValueError, NotImplementedError, OSError):
        return []


def _add(
    document: Document,
    root: dict[str, object],
    place: Path,
    name: FilePath,
    environ: Mapping[str, str],
) -> None:
    """Add the services, filters and routes of one file."""
    try:
        text = files.read(str(name), MAX_FILE).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        _complain(document, place, f"{name}: cannot be read ({reason}); allowed: a YAML file")
        return
    if len(text) > MAX_FILE:
        _complain(document, place, f"{name}: is too large; allowed: {MAX_FILE} bytes")
        return
    other = yaml_lines.read(text, environ)
    document.problems += [
        Problem(one.line, one.path, one.message, str(name)) for one in other.problems
    ]
    sections = other.root
    if sections is None or (isinstance(sections, Scalar) and sections.empty):
        return
    if not isinstance(sections, dict):
        problem = Problem(1, (), "is no mapping; allowed: services, filters and routes", str(name))
        document.problems.append(problem)
        return
    moves = _Moves(document, other, name)
    for key, section in sections.items():
        here = root.get(key)
        if key not in _SECTIONS:
            message = f"has no place in an included file; allowed: {', '.join(_SECTIONS)}"
            document.problems.append(Problem(other.lines[(key,)], (key,), message, str(name)))
        elif _SECTIONS[key] and isinstance(section, dict):
            if not isinstance(here, dict):
                here = root[key] = {}
            for entry, node in section.items():
                path = (key, entry)
                if entry in here:
                    where = document.files.get(path, "the file that includes this one")
                    message = f"stands in {where}, too; allowed: each {_SECTIONS[key]} once"
                    document.problems.append(Problem(other.lines[path], path, message, str(name)))
                    continue
                here[entry] = node
                moves.move(path, path)
        elif key == "routes" and isinstance(section, list):
            if not isinstance(here, list):
                here = root[key] = []
            for at, node in enumerate(section):
                moves.move((key, at), (key, len(here)))
                here.append(node)
        else:
            kind = "mapping" if _SECTIONS[key] else "list"
            message = f"is no {kind}; allowed: a {kind}"
            document.problems.append(Problem(other.lines[(key,)], (key,), message, str(name)))
        document.lines.setdefault((key,), 1)


class _Moves:
    """The places of one file, which come to stand elsewhere."""

    def __init__(self, document: Document, other: Document, name: FilePath) -> None:
        self._document, self._other, self._name = document, other, str(name)
        self._below: dict[Path, list[Path]] = {}
        for path in other.lines:
            self._below.setdefault(path[:2], []).append(path)

    def move(self, old: Path, new: Path) -> None:
        """Let an entry of the other file stand in the document, at `new`."""
        document, other = self._document, self._other
        document.files[new] = self._name
        for path in self._below.get(old, ()):
            document.lines[*new, *path[2:]] = other.lines[path]
            if path in other.broken:
                document.broken.add((*new, *path[2:]))


def _complain(document: Document, place: Path, message: str) -> None:
    document.problems.append(Problem(document.lines[place], place, message))
