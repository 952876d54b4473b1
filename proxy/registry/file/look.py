"""A look at files with instances: which there are, and what is in those that changed. Blocks.

Nothing tells that a writer is done, so a file is read once two looks in a row have found it the
same. Until then, and if it cannot be read, what was last read of it stays.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from proxy import files
from proxy.registry.base import RegistryError
from proxy.registry.lists import NoList, complaint, decoded, records
from proxy.settings import yaml_lines
from proxy.settings.tree import Scalar

SUFFIXES: Final = (".yaml", ".yml", ".json")

MAX_FILE: Final = 16 * 2**20
"""Bytes of a file: some 50,000 instances."""
MAX_FILES: Final = 1000
"""In a directory: each is asked for every two seconds."""

Stamp = tuple[int, ...]


class Seen(msgspec.Struct, frozen=True):
    """One file."""

    stamp: Stamp
    """When it was written, as the file system tells it, at the last look; () = it is not there."""
    read: Stamp | None = None
    """The same, when it was last read."""
    records: Mapping[bytes, bytes] = {}
    """Last good content."""
    good: bool = False
    """Whether it could be read once."""
    problem: str = ""
    """Why what is there now cannot be used."""

    @property
    def settled(self) -> bool:
        """Whether there is nothing in it that was not read."""
        return self.read == self.stamp


def look(path: str, before: Mapping[str, Seen]) -> dict[str, Seen]:
    """The files at `path`, by name, after a look that found `before`. RegistryError when there is
    nothing to be seen, or no more file where there were some."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        names = _names(path) if is_directory else [path]
        if len(names) > MAX_FILES:
            raise RegistryError(f"{path} has {len(names)} files; at most {MAX_FILES} are read")
        found = {name: _seen(name, before.get(name)) for name in names}
    except OSError as error:
        raise RegistryError(f"{error.filename or path}: {error.strerror}") from None
    problems = [seen.problem for seen in found.values() if seen.problem]
    if problems and not any(seen.good for seen in found.values()):
        raise RegistryError(f"{path} {problems[0]}")  # So there is nothing to be told yet.
    if before and not any(seen.stamp for seen in found.values()):
        # As a mount that is gone leaves it. An empty list in a file says it on purpose.
        kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise RegistryError(f"{path} has none of {kinds} any more")
    return found


def joined(found: Mapping[str, Seen]) -> dict[bytes, bytes]:
    """Records of all files, and a complaint for each file that cannot be used."""
    every: dict[bytes, bytes] = {}
    for name, seen in found.items():
        for key, value in seen.records.items():
            if key in every:
                key, value = f"{name}: {key.decode()}".encode(), complaint("another file has it")
            every[key] = value
        if seen.problem:
            every[name.encode()] = complaint(seen.problem)
    return every


def _names(directory: str) -> list[str]:
    """Paths of the files to read, in order. Hidden ones are not, which those that Kubernetes
    swaps under the others are."""
    return sorted(
        os.path.join(directory, name)
        for name in os.listdir(directory)
        if name.endswith(SUFFIXES) and not name.startswith(".")
    )


def _seen(name: str, before: Seen | None) -> Seen:
    gone = ""
    try:
        found = os.stat(name)
        stamp: Stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
    except OSError as error:  # A link that leads nowhere is no matter of the others.
        stamp, gone = (), f"cannot be read: {error.strerror}"
    if before is None:
        return Seen(stamp)
    if stamp != before.stamp or before.settled:
        return msgspec.structs.replace(before, stamp=stamp)
    try:
        if gone:
            raise NoList(gone)
        content = records(_document(name), place=f"{os.path.basename(name)}: ")
    except NoList as problem:
        kept = "; what it held before is used" if before.good else ""
        return msgspec.structs.replace(before, read=stamp, problem=f"{problem}{kept}")
    return Seen(stamp, stamp, content, good=True)


def _document(name: str) -> object:
    """The document in a file; NoList."""
    try:
        content = files.read(name, MAX_FILE)
    except FileNotFoundError:
        raise  # It has just gone, and the next look knows.
    except OSError as error:
        raise NoList(f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise NoList(f"has more than {MAX_FILE} bytes")
    if not content.strip():
        raise NoList("is empty, as one that is being written; none at all is {} or []")
    try:
        if name.endswith(".json"):
            return decoded(content)
        text = content.decode("utf-8-sig")
    except (ValueError, RecursionError) as error:
        raise NoList(f"is not JSON in UTF-8: {error}") from None
    document = yaml_lines.read(text, {})
    for problem in document.problems:
        raise NoList(f"line {problem.line}: {problem.message}")
    return _plain(document.root)


def _plain(tree: Any) -> object:
    """Scalars as texts, which is what records are read from as well."""
    if isinstance(tree, dict):
        return {key: _plain(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_plain(item) for item in tree]
    if isinstance(tree, Scalar):
        return None if tree.empty else tree.text
    return tree
