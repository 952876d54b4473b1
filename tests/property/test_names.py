"""What holds of a name whatever its name servers do and whenever it is used."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.names.base import Unresolved
from proxy.names.cache import (
    CEILING,
    EARLY,
    FLOOR,
    LOST,
    MAX_ADDRESSES,
    PATIENCE,
    Names,
    host_name,
)
from proxy.names.eyeballs import interleaved
from tests.support.loop_and_network import SteppedLoop, ToldResolver

SHORTEST = FLOOR * EARLY
"""Seconds between two questions at least."""

steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0.01, 2 * CEILING)),
        st.tuples(st.just("use"), st.just(0.0)),
        st.tuples(st.just("says"), st.floats(0.0, 2 * CEILING)),
        st.tuples(st.sampled_from(["fails", "hangs", "denies"]), st.just(0.0)),
    ),
    max_size=40,
)


@given(steps)
def test_a_name_that_has_addresses_keeps_them_unless_that_is_denied(
    steps: list[tuple[str, float]],
) -> None:
    loop = SteppedLoop()
    resolver = ToldResolver(loop)
    name = Names(loop, resolver).get("web.test")
    began = loop.time()
    told = 0
    denied = False
    """What the name server would say now."""
    for what, number in steps:
        if what == "pass":
            loop.advance(number)
        elif what == "says":
            told += 1
            resolver.says("web.test", f"10.0.0.{told}", ttl=number)
            denied = False
        elif what == "use":
            resolved = bool(name.addresses)
            held = name.addresses if name.holds_until > loop.time() else None
            use = asyncio.Task(used(name), loop=loop)
            loop.run_ready()
            if held is not None:
                assert use.done(), "nobody waits while an answer holds"
                assert use.result() == held
            loop.advance(PATIENCE)
            if resolved:
                assert use.done(), "who could be told of an older answer waits no longer"
                if not denied:
                    assert use.result(), "it had addresses"
            loop.advance(LOST)
            if not use.done():
                assert not resolved
                use.cancel()
        else:
            getattr(resolver, what)("web.test")
            denied = what == "denies"
        loop.run_ready()
        elapsed = loop.time() - began
        assert len(resolver.questions) <= 1 + elapsed / SHORTEST
        assert name.holds_until <= loop.time() + CEILING
    assert loop.failures == []


async def used(name: object) -> tuple[str, ...]:
    try:
        return name.known() or await name.find()  # type: ignore[attr-defined]
    except Unresolved:
        return ()


@given(st.lists(st.ip_addresses().map(str), min_size=1, max_size=2 * MAX_ADDRESSES, unique=True))
def test_families_take_turns_and_no_address_is_lost(addresses: list[str]) -> None:
    mixed = interleaved(addresses)
    assert sorted(mixed) == sorted(addresses)
    assert mixed[0] == addresses[0]
    for family in (True, False):
        in_order = [one for one in addresses if (":" in one) is family]
        assert [one for one in mixed if (":" in one) is family] == in_order
    ipv6 = sum(":" in one for one in addresses)
    fewer = min(ipv6, len(addresses) - ipv6)
    kinds = [":" in one for one in mixed[: 2 * fewer]]
    assert all(one is not other for one, other in pairwise(kinds))


@given(st.text(max_size=300))
def test_a_name_that_is_asked_for_is_a_host_name_in_ascii(text: str) -> None:
    name = host_name(text)
    if name:
        assert name.isascii()
        assert not set(name) & set(" \t\r\n\0/:[]%,;#")
        assert len(name) <= 254
        assert not name.rstrip(".").rpartition(".")[2].isdecimal()
