"""Every wire that a test builds is checked for leftovers when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.wire import Wire

MakeWire = Callable[..., Wire]


@pytest.fixture(params=["plain", pytest.param("tls", marks=pytest.mark.drill)])
def make(request: pytest.FixtureRequest) -> Iterator[MakeWire]:
    """`make(...)` builds a `Wire`; `done` is called for each at the end. Everything is tried twice:
    TLS changes nothing of what is said above it."""
    yield from making(request.param == "tls")


def making(tls: bool) -> Iterator[MakeWire]:
    """What the fixture is; `tls`: clients speak it, where a test does not say otherwise."""
    wires: list[Wire] = []

    def build(*instances: str, **options: Any) -> Wire:
        options.setdefault("tls", tls)
        wires.append(Wire(*instances, **options))
        return wires[-1]

    yield build
    for wire in wires:
        wire.done()
