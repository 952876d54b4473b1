"""What the data plane says of its own bounds, found in its source.

Whatever keeps what peers send, and whatever is done for each thing that they send, says beside
itself how much that is at most, in a comment that begins with `≤`:

    self._buffer = b""  # ≤ READ_AHEAD + 256 KiB
    self.clients: set[ClientConnection] = set()  # ≤ 1 KiB + 300 B per connection
    while at < size:  # ≤ 3 * CHUNKS
    for node in self.nodes.values():  # ≤ instances

A size is a sum of bytes and of constants of the module, some of them for each of what the operator
has, or lets in (`NOUNS`). The rounds of a loop are those of one turn of the event loop.

Nobody keeps a list of these places: they are read from the source of everything that a worker
imports. `tests/arch/test_bounds.py` asks for the words, and `tests/wire/test_bounds.py` holds them
against what hostile peers achieve.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = "proxy.engine.worker"
"""Everything that it imports runs in a worker."""
DECLARATIVE = ("proxy.settings", "proxy.messages", "proxy.membership", "proxy.catalog")
"""What the operator wrote, and what a message holds: read, and never added to."""
NOUNS = (
    "connection", "request", "instance", "service", "route", "listener", "worker", "tunnel", "name",
)  # fmt: skip
"""What the operator has, or lets in."""
ELSEWHERE = "room"
"""The bound of a `Memo`, which says it where it is made."""
OFF_LOOP = ("thread", "explain", "docs")
"""Rounds that hold up nobody: of another thread, or of another program that uses the module."""
MAKERS = frozenset(
    ("dict", "list", "set", "deque", "bytearray", "BytesIO", "SimpleQueue", "Queue", "OrderedDict",
     "defaultdict", "Counter", "WeakSet", "WeakValueDictionary", "Memo", "lru_cache", "cache")
)  # fmt: skip
"""Calls, and types, of something to keep things in."""
CHANGES = frozenset(
    ("append", "appendleft", "add", "update", "setdefault", "extend", "insert", "put", "push")
)
"""Methods by which a table grows."""
UNITS = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}


@dataclass(frozen=True)
class Place:
    """A container or a loop, and what is said of it."""

    module: str
    line: int
    name: str
    """`attribute`, `Class.attribute`, or the first line of a loop."""
    said: str | None
    """What stands behind `≤`."""
    first: int = 0
    """Of a loop: the first line of its body."""

    def __str__(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line}: {self.name}"

    def bound(self, counts: Mapping[str, int]) -> float:
        """Bytes, or rounds; `counts`: how many there are of each of `NOUNS`."""
        assert self.said is not None
        if self.said in (ELSEWHERE, *OFF_LOOP):
            return float("inf")
        total = 0.0
        for term in self.said.split(" + "):
            text, _, noun = term.partition(" per ")
            if text.removesuffix("s") in NOUNS:
                text, noun = "1", text.removesuffix("s")
            text = re.sub(r"\b(\d+) (B|KiB|MiB)\b", lambda m: f"{int(m[1]) * UNITS[m[2]]}", text)
            assert re.fullmatch(r"\w+( \* \w+)*", text), f"{self}: {term!r}"
            total += eval(text, vars(import_module(self.module))) * (counts[noun] if noun else 1)
        return total


@cache
def sources() -> dict[str, Path]:
    """Module → file, of what runs in a worker."""
    found: dict[str, Path] = {}
    pending = [FIRST]
    while pending:
        module = pending.pop()
        path = ROOT / f"{module.replace('.', '/')}.py"
        if module in found or not module.startswith("proxy.") or not path.exists():
            continue
        found[module] = path
        pending += _imports(ast.parse(path.read_text("utf-8")))
    return {name: path for name, path in sorted(found.items()) if not name.startswith(DECLARATIVE)}


def _imports(tree: ast.AST) -> Iterator[str]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def _said(lines: list[str], node: ast.stmt | ast.expr, last: int | None = None) -> str | None:
    for line in lines[node.lineno - 1 : last or node.end_lineno]:
        match = re.search(r"# ≤ ([^.;:]+)", line)
        if match:
            return match[1].strip()
    return None


def _words(node: ast.AST | None) -> list[str]:
    return [] if node is None else re.findall(r"\w+", ast.unparse(node))


def loops() -> Iterator[Place]:
    """Everything that is done again and again, but for what is written out in the line itself."""
    for module, path in sources().items():
        text = path.read_text("utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
                continue
            if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
                continue
            said = _said(lines, node, max(node.lineno, node.body[0].lineno - 1))
            first = node.body[0].lineno
            yield Place(module, node.lineno, lines[node.lineno - 1].strip(), said, first)


def containers() -> Iterator[Place]:
    """Everything that a module, or an object, keeps things in."""
    for module, path in sources().items():
        text = path.read_text("utf-8")
        yield from _Containers(module, text).found.values()


def _slots(node: ast.ClassDef) -> set[str] | None:
    for child in node.body:
        if isinstance(child, ast.Assign) and _words(child.targets[0]) == ["__slots__"]:
            value = ast.literal_eval(child.value)
            return {value} if isinstance(value, str) else set(value)
    return None


class _Containers:
    """Those of one module."""

    def __init__(self, module: str, text: str) -> None:
        self.found: dict[str, Place] = {}
        self._module = module
        self._lines = text.splitlines()
        tree = ast.parse(text)
        self._changed = {
            node.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in CHANGES
            and isinstance(node.value, ast.Name)
        } | {
            node.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript)
            and isinstance(node.ctx, (ast.Store, ast.Del))
            and isinstance(node.value, ast.Name)
        }
        self._slots: dict[str, set[str] | None] = {}
        """Class → its own attributes, where it lists them."""
        self._values: set[str] = set()
        """Classes of what is made once and then read: it belongs to whoever holds it."""
        for node in tree.body:
            self._look(node, "")

    def _look(self, node: ast.stmt, owner: str) -> None:
        if isinstance(node, ast.ClassDef):
            if self._is_value(node):
                self._values.add(node.name)
                return
            self._slots[node.name] = _slots(node)
            assigned = {
                target.attr
                for child in ast.walk(node)
                if isinstance(child, (ast.Assign, ast.AnnAssign, ast.AugAssign))
                for target in getattr(child, "targets", None) or [child.target]  # type: ignore[union-attr]
                if isinstance(target, ast.Attribute)
            }
            for child in node.body:
                if isinstance(child, (ast.Assign, ast.AnnAssign)):
                    targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                    names = {t.id for t in targets if isinstance(t, ast.Name)}
                    if names & assigned or _said(self._lines, child):
                        self._note(child, node.name)
                else:
                    self._look(child, node.name)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for decorator in node.decorator_list:
                if MAKERS.intersection(_words(decorator)):
                    self._add(node.name, decorator)
            for child in ast.walk(node):
                if isinstance(child, (ast.Assign, ast.AnnAssign)) and owner:
                    targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                    if all(
                        isinstance(t, ast.Attribute) and "self" in _words(t.value) for t in targets
                    ):
                        self._note(child, owner)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            self._note(node, owner)

    def _note(self, node: ast.Assign | ast.AnnAssign, owner: str) -> None:
        value = node.value
        if isinstance(value, ast.Call):
            keeps = bool(MAKERS.intersection(_words(value.func)))
        elif isinstance(value, ast.Constant):
            keeps = value.value == b"" and bool(owner)
        else:
            keeps = isinstance(
                value, (ast.Dict, ast.List, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
            )
        typed = _words(getattr(node, "annotation", None))
        keeps = (
            keeps or bool(MAKERS.intersection(typed)) or (bool(owner) and typed[:1] == ["bytes"])
        )
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            slots = self._slots.get(owner)
            if slots is not None and isinstance(target, ast.Attribute) and name not in slots:
                continue  # A base class has it, and says so.
            kept = keeps and (owner or name in self._changed or not self._is_table(value))
            if kept or _said(self._lines, node):
                self._add(f"{owner}.{name}" if owner else name, node)

    @staticmethod
    def _is_table(value: ast.expr | None) -> bool:
        """Written out in the source, and as large as it is; an empty one is there to be filled."""
        if isinstance(value, (ast.Dict, ast.List, ast.Set)):
            return bool(value.keys if isinstance(value, ast.Dict) else value.elts)
        return isinstance(value, (ast.DictComp, ast.ListComp, ast.SetComp))

    def _add(self, name: str, node: ast.stmt | ast.expr) -> None:
        said = _said(self._lines, node)
        if name not in self.found or (said and not self.found[name].said):
            self.found[name] = Place(self._module, node.lineno, name, said)

    def _is_value(self, node: ast.ClassDef) -> bool:
        bases = {ast.unparse(base) for base in node.bases}
        frozen = any("frozen" in _words(decorator) for decorator in node.decorator_list)
        return bool(
            bases & ({"NamedTuple", "Struct", "Enum", "Protocol"} | self._values)
            or frozen
            or "Frozen once" in (ast.get_docstring(node) or "")
        )
