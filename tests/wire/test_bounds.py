"""Hostile peers against the bounds that the data plane says of itself: bytes, and work in a turn.

Both laws run over every container and every loop that a worker imports, found in the source
(`tests/support/bounds.py`): what is not found to be declared fails in `tests/arch/test_bounds.py`.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from proxy.engine import worker
from proxy.engine.http2.connection import SessionControl
from tests.support import bounds
from tests.support.bounds import NOUNS, Place
from tests.support.hostile import Bench
from tests.support.hostile_http2 import DRILLS
from tests.support.sizes import attributes_of, deep_size

if worker.__file__.endswith(".so"):
    pytest.skip("the source is not what runs", allow_module_level=True)

pytestmark = pytest.mark.drill

LINES = 12_000
"""Of our source, in one callback: one to two milliseconds. A plain request takes 300."""
UNSAID = 8 * 1024
"""Bytes that an object may hold in an attribute without a word about it."""

OF_CLASSES: dict[tuple[str, str], list[tuple[str, Place]]] = defaultdict(list)
OF_MODULES: list[Place] = []
for place in bounds.containers():
    owner, dot, name = place.name.rpartition(".")
    if dot:
        OF_CLASSES[place.module, owner].append((name, place))
    else:
        OF_MODULES.append(place)
LOOPS = {
    (str(bounds.sources()[loop.module]), loop.first): loop for loop in bounds.loops() if loop.first
}


FOREIGN = ("asyncio", "_asyncio", "tests", "structlog", "threading", "pycares")


def is_ours(kind: type) -> bool:
    return isinstance(kind.__module__, str) and kind.__module__.startswith("proxy.")


def owns(value: object) -> bool:
    """What is in it is its own affair, or nobody's of ours."""
    kind = type(value)
    if is_ours(kind):
        return any("owns" in (base.__doc__ or "").lower() for base in kind.__mro__ if is_ours(base))
    return str(kind.__module__).partition(".")[0] in FOREIGN


def said_of(kind: type) -> dict[str, Place]:
    return {
        name: place
        for base in reversed(kind.__mro__)
        for name, place in OF_CLASSES.get((base.__module__, base.__name__), ())
    }


def excesses(counts: dict[str, int]) -> Iterator[str]:
    """Whatever is larger than it says, or says nothing and is not small."""
    for place in OF_MODULES:
        size = deep_size(getattr(import_module(place.module), place.name), owns)
        if size > place.bound(counts) + 1024:
            yield f"{place}: {size} bytes"
    for value in gc.get_objects():
        kind = type(value)
        if not is_ours(kind) or not owns(value):
            continue
        said = said_of(kind)
        for name, held in attributes_of(value):
            if held is None or isinstance(held, (int, float, bool)) or owns(held) or callable(held):
                continue
            size = deep_size(held, owns)
            place = said.get(name)
            if place is None and size > UNSAID:
                yield f"{kind.__qualname__}.{name}: {size} bytes, and nothing said about it"
            elif place is not None and size > place.bound(counts) + 1024:
                yield f"{place}: {size} bytes, said is {place.said}"


def requests_of(client: Any) -> int:
    """Requests that a client has under way."""
    if isinstance(client, SessionControl):
        session: Any = client._session
        return len(session._streams)
    return client.exchange is not None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    gc.collect()
    gc.freeze()  # What is left of other tests is not this one's.
    made = Bench(tmp_path)
    yield made
    made.close()
    gc.unfreeze()


@pytest.mark.parametrize("name", DRILLS)
def test_containers_never_grow_beyond_what_they_say(bench: Bench, name: str) -> None:
    most: Counter[str] = Counter(dict.fromkeys(NOUNS, 1))
    for _ in DRILLS[name](bench):
        wire = bench.wire
        most |= Counter(
            connection=len([t for t in wire.network.transports if not t.lost]),
            request=sum(map(requests_of, wire.worker.connections.clients)),
            instance=sum(len(pool.nodes) for pool in wire.worker.pools),
            service=len(list(wire.worker.pools)),
            route=len(wire.worker.services.routes.routes),
            tunnel=len(wire.worker.connections.tunnels),
            worker=len(wire.board.alive),
        )
        assert "\n".join(excesses(most)) == ""


class Meter:
    """Counts the lines that run in each callback, and the rounds of each loop."""

    def __init__(self, bench: Bench) -> None:
        self._loop = bench.wire.loop
        self._files = {str(path) for path in bounds.sources().values()}
        self._callback = -1
        self._lines = 0
        self._rounds: Counter[tuple[str, int]] = Counter()
        self.most_lines = 0
        self.most_rounds: Counter[tuple[str, int]] = Counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)
            self._turn()

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._on_line if frame.f_code.co_filename in self._files else None

    def _on_line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            if self._loop.callbacks != self._callback:
                self._turn()
            self._lines += 1
            key = frame.f_code.co_filename, frame.f_lineno
            if key in LOOPS:
                self._rounds[key] += 1
        return self._on_line

    def _turn(self) -> None:
        self._callback = self._loop.callbacks
        self.most_lines = max(self.most_lines, self._lines)
        self.most_rounds |= self._rounds
        self._lines = 0
        self._rounds.clear()


@pytest.mark.parametrize("name", DRILLS)
def test_no_turn_of_the_loop_does_more_than_it_says(bench: Bench, name: str) -> None:
    meter = Meter(bench)
    with meter.running():
        for _ in DRILLS[name](bench):
            pass
    assert meter.most_lines <= LINES
    counts = dict.fromkeys(NOUNS, 1000)
    over = [
        f"{LOOPS[key]}: {rounds} rounds, said is {LOOPS[key].said}"
        for key, rounds in meter.most_rounds.items()
        if rounds > LOOPS[key].bound(counts)
    ]
    assert over == []
