"""Several addresses of one instance: all are tried, the quickest is used (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, TypeVar

DELAY: Final = 0.25
"""Seconds between the start of one attempt and that of the next one, if the first is still under
way (RFC 8305 §8, Connection Attempt Delay)."""

_LEAST_TELLING: Final = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
)
"""Errors of a machine without IPv6 for each IPv6 address: no news of the instance."""

T = TypeVar("T")


def interleaved(addresses: Sequence[str]) -> list[str]:
    """The families by turns, that of the first address first, each in its order (RFC 8305 §4)."""
    first = [one for one in addresses if (":" in one) == (":" in addresses[0])]
    other = [one for one in addresses if (":" in one) != (":" in addresses[0])]
    mixed = [one for pair in zip(first, other, strict=False) for one in pair]
    shorter = min(len(first), len(other))
    return [*mixed, *first[shorter:], *other[shorter:]]


async def first_of(
    addresses: Sequence[str],
    dial: Callable[[str], Coroutine[Any, Any, T]],
    discard: Callable[[T], None],
) -> tuple[str, T]:
    """The first connection that comes about, and its address. One that fails is followed at once,
    one that takes long after `DELAY`; the others are given up then, and a connection that one of
    them has after all goes to `discard`. OSError, the most telling one, if all of them fail.
    No limit of its own: the caller's cancels all."""
    waiting = deque(interleaved(addresses))
    under_way: dict[asyncio.Task[T], str] = {}
    failures: list[OSError] = []
    won: tuple[str, T] | None = None
    try:
        while waiting or under_way:  # ≤ 16
            if waiting:
                address = waiting.popleft()
                under_way[asyncio.create_task(dial(address))] = address
            done, _ = await asyncio.wait(
                under_way,
                timeout=DELAY if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:  # ≤ 16
                address = under_way.pop(task)
                error = task.exception()
                if isinstance(error, OSError):
                    failures.append(error)
                elif error is not None:
                    raise error
                elif won is None:
                    won = address, task.result()
                else:
                    discard(task.result())
            if won is not None:
                return won
    except BaseException:
        if won is not None:
            discard(won[1])
        raise
    finally:
        # Not waited for: who is cancelled while it waits would forget what was won.
        for task in under_way:  # ≤ 16
            task.add_done_callback(partial(_discard, discard))
            task.cancel()
    telling = [error for error in failures if error.errno not in _LEAST_TELLING]
    raise (telling or failures)[0]


def _discard(discard: Callable[[T], None], task: asyncio.Task[T]) -> None:
    """Let `discard` have what a dial that was given up has made after all."""
    if not task.cancelled() and task.exception() is None:
        discard(task.result())
