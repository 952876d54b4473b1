"""Every wire that a test builds is checked for leftovers when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.wire import Wire

MakeWire = Callable[..., Wire]


@pytest.fixture
def make() -> Iterator[MakeWire]:
    """`make(...)` builds a `Wire`; `done` is called for each at the end."""
    wires: list[Wire] = []

    def build(*instances: str, **options: Any) -> Wire:
        wires.append(Wire(*instances, **options))
        return wires[-1]

    yield build
    for wire in wires:
        wire.done()
