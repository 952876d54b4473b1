"""Containers and loops of the data plane say what bounds them: see `tests/support/bounds.py`."""

from __future__ import annotations

import ast

import pytest

from tests.support import bounds
from tests.support.bounds import NOUNS, Place

CONTAINERS = list(bounds.containers())
LOOPS = list(bounds.loops())


@pytest.mark.parametrize("place", [*CONTAINERS, *LOOPS], ids=str)
def test_each_place_says_beside_itself_how_much_it_may_be(place: Place) -> None:
    assert place.said is not None, f"{place}: `# ≤ …`: see tests/support/bounds.py"
    assert place.bound(dict.fromkeys(NOUNS, 1)) > 0


def test_containers_and_loops_are_found() -> None:
    names = {place.name for place in CONTAINERS}
    assert {"_status_lines", "ServerConnection._buffer", "Deadlines._slots", "_pattern"} <= names
    assert {"ReplayBuffer.pieces", "Framing._buffer", "ServiceCounters._answers"} <= names
    assert "_REQUEST_KINDS" not in names  # It is what the source says.
    modules = {place.module for place in LOOPS}
    assert {"proxy.channel", "proxy.engine.http1.body", "proxy.names.cares"} <= modules


@pytest.mark.parametrize(
    "source",
    [
        "_seen: dict[bytes, int] = {}",
        "_seen = set()",
        "_seen: Final[list[bytes]] = list()",
        "TABLE = {1: 2}\ndef note(x): TABLE[x] = 1",
        "TABLE = [1]\ndef note(x): TABLE.append(x)",
        "@lru_cache\ndef read(x): return x",
        "class A:\n    def __init__(self):\n        self.seen = {}",
        "class A:\n    def __init__(self):\n        self.rest = b''",
        "class A:\n    seen = []\n    def note(self):\n        self.seen = [1]",
        "class A:\n    def on_data(self, data):\n        self._parts: list[bytes] = [data]",
        "class A:\n    def __init__(self, make):\n        self.held: deque[bytes] = make()",
    ],
)
def test_a_new_one_is_found(source: str) -> None:
    found = bounds._Containers("m", source).found
    assert len(found) == 1
    assert [place.said for place in found.values()] == [None]
    assert not bounds._Containers("m", "TABLE = {1: 2}\nNAMES = frozenset((b'x',))").found
    assert ast.parse(source)
