"""YAML text → a tree of plain mappings, lists and scalars that remembers its lines.

The schema, not YAML, decides what a scalar means: every scalar keeps the text as it was
written, so `X-Beta: 1` can be text, `retry: off` a switch and `bind: 22:22` no sexagesimal
number (the three things YAML 1.1 gets wrong most often in configuration files). That is
also what lets `${PORT}` stand where a number belongs. Substitution happens here, in scalars
of the finished tree, so no value from the environment can change the structure of the file.

This is the only importer of PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.composer import Composer

from proxy.settings.tree import Document, Path, Problem, Scalar

MAX_DEPTH = 32
"""The deepest setting has seven levels; the rest is room, and a stop for anchors in circles."""

MAX_VALUES = 200_000
"""Aliases can unfold a few lines into billions of values ("billion laughs"). This is ten
times the largest file we expect: four thousand static instances of five values each."""

_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
_MERGE_TAG = "tag:yaml.org,2002:merge"
_SUBSTITUTION = re.compile(r"\$\$\{|\$\{([^}]*)(\})?")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


_DISPUTED = re.compile(r"[\t\ufeff]|\?(?:\s|\Z)")
"""Where libyaml and PyYAML read the same text differently: whether a tab or a byte order mark may
stand there, and the line of an explicit key's missing value. What a file means must not depend
on the installation."""

_FastLoader: Any = None
if yaml.__with_libyaml__:
    # `CSafeLoader` by itself composes in C too, and deep nesting overflows its stack, which ends
    # the process. So only events are from C; a RecursionError can be caught.
    class _EventsFromC(Composer, yaml.CSafeLoader):
        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)

    _FastLoader = _EventsFromC


class _Limit(Exception):
    """The file unfolds too far; its argument is the message."""


def read(
    text: str, environ: Mapping[str, str] | None, *, libyaml: bool = yaml.__with_libyaml__
) -> Document:
    """The tree of `text`. Never raises: what is wrong is in `problems`. `environ`: None
    leaves `${…}` as it is. `libyaml`: use it; the result is the same."""
    document = Document()
    try:
        node = _compose(text, libyaml)
    except yaml.MarkedYAMLError as error:
        document.problems.append(_syntax_problem(error, text))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        message = (
            f"not text: it holds the character 0x{ord(_char(error.character)):02x}; allowed:"
            " printable characters, tabs and line ends"
        )
        document.problems.append(Problem(line, (), message))
    except RecursionError:
        document.problems.append(Problem(None, (), _too_deep()))
    else:
        if node is not None:
            try:
                document.root = _Unfolding(document, environ).value(node, ())
            except _Limit as limit:
                document.root = None
                document.problems.append(Problem(None, (), str(limit)))
    return document


def _compose(text: str, libyaml: bool) -> yaml.Node | None:
    """The nodes of the text, from libyaml where PyYAML has it: five times as fast, which a file
    with thousands of instances needs. What it refuses is read again for PyYAML's own words."""
    if libyaml and not _DISPUTED.search(text):
        loader = _FastLoader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
            return node
        except yaml.YAMLError:
            pass
        finally:
            loader.dispose()
    return yaml.compose(text, yaml.SafeLoader)


def _char(character: str | bytes | int) -> str:
    return chr(character) if isinstance(character, int) else str(character)


def _too_deep() -> str:
    return f"nested too deeply; allowed: {MAX_DEPTH} levels"


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    """PyYAML's own words, and a hint for the mistakes that this file format invites."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else None
    problem = error.problem or error.context or "it cannot be parsed"
    rows = text.splitlines()
    row = rows[line - 1] if line is not None and line <= len(rows) else ""
    hint = ""
    if error.context == "while scanning an alias" or "undefined alias" in problem:
        hint = '; text that begins with * must be quoted, as in "*.example.com"'
    elif "another document" in problem:
        problem = "it holds a second document"
        hint = "; allowed: one, without a --- line inside"
    elif "\\t" in problem:
        hint = "; indent with spaces"
    elif "${" in row or "{service}" in row:
        hint = '; text with { or } must be quoted, as in "/{service}" or "${NAME}"'
    return Problem(line, (), f"not valid YAML: {problem}{hint}")


class _Unfolding:
    """Owns the walk from YAML nodes to the tree, and the count that bounds it."""

    def __init__(self, document: Document, environ: Mapping[str, str] | None) -> None:
        self._document = document
        self._environ = environ
        self._values = 0

    def value(self, node: yaml.Node, path: Path) -> object:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Limit(
                f"aliases unfold it to more than {MAX_VALUES} values; allowed: fewer aliases"
            )
        if len(path) > MAX_DEPTH:
            raise _Limit(_too_deep())
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            self._expect_tag(node, path, "tag:yaml.org,2002:map")
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._expect_tag(node, path, "tag:yaml.org,2002:seq")
            return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        if node.tag not in _PLAIN_TAGS:
            self._expect_tag(node, path, "")
        return self._scalar(node, path)

    def _expect_tag(self, node: yaml.Node, path: Path, tag: str) -> None:
        if node.tag != tag:
            self._broken(path, f"has the YAML tag {node.tag}; allowed: no tag")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        entries: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                message = "has a key that is a list or a mapping; allowed: text"
                self._document.problems.append(Problem(line, path, message))
                continue
            if key_node.tag == _MERGE_TAG:
                message = (
                    "merge keys (<<) are not supported; allowed: write the settings out, or"
                    " put them under defaults, which every service inherits"
                )
                self._document.problems.append(Problem(line, (*path, "<<"), message))
                continue
            key = key_node.value
            place = (*path, key)
            if key in entries:
                first = self._document.lines[place]
                message = f"stands here a second time (first in line {first}); allowed: once"
                self._document.problems.append(Problem(line, place, message))
                continue
            self._document.lines[place] = line
            entries[key] = self.value(value_node, place)
        return entries

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Scalar:
        quoted = bool(node.style)  # Plain is None, or "" from libyaml.
        written: str = node.value
        environ = self._environ
        if environ is None or "${" not in written:
            return Scalar(written, quoted)
        wrong: list[str] = []

        def replacement(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            variable = _VARIABLE.fullmatch(match[1]) if match[2] else None
            if variable is None:
                wrong.append(
                    f"{match[0]} is not a variable; allowed: ${{NAME}}, ${{NAME:-default}},"
                    " or $${ for the characters themselves"
                )
                return ""
            name, default = variable[1], variable[2]
            # As in a shell: `:-` also replaces a variable that is set but empty.
            value = environ.get(name)
            if default is not None:
                return value or default
            if value is None:
                wrong.append(
                    f"the environment variable {name} is not set; allowed: set it, or write"
                    f" ${{{name}:-default}}"
                )
                return ""
            return value

        text = _SUBSTITUTION.sub(replacement, written)
        for message in wrong:
            self._broken(path, message)
        return Scalar(text, quoted, written)

    def _broken(self, path: Path, message: str) -> None:
        line = self._document.lines[path]
        self._document.problems.append(Problem(line, path, message))
        self._document.broken.add(path)
