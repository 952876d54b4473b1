"""The balancer interface.

A balancer is pure: it sees nodes, an integer key, the nodes already tried for this request,
and an injected random source. It does no I/O, has no clock and never sees a request. When the pool
changes, the engine says what is different (`changed`); a balancer that cannot take that over in
place is built anew and inherits from the old (`inherit`), so state keyed by instance survives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import ClassVar, Protocol, Self

NO_KEY = -1
"""The request has nothing to hash; keys proper are unsigned 64-bit integers."""


def hash_key(value: bytes) -> int:
    """A request's property as a key: the same in every process and at every start, which
    Python's own `hash` is not."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big")


class Node(Protocol):
    """An instance as far as a balancer may know it.

    `id` and `key` never change: `id` is the name the instance is registered under, `key`
    adds its endpoint. Both are unique within a pool. `weight`, `share` and `usable` may change at
    any time: a balancer reads them while it is built and in `changed`, and keeps what it read,
    because the node may already show values that it will be told of next. `load` is live: requests
    and tunnels in flight in all workers, for a balancer with `reads_load`. `share` is how much of
    its weight an instance in slow start is to have so far, for a balancer with `uses_key`, whose
    layout is that of whole weights; others are told weights that it is part of. The same instance
    is the same object for as long as it is in the pool, so identity may be compared.
    """

    @property
    def id(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def usable(self) -> bool: ...
    @property
    def load(self) -> int: ...


class Balancer(ABC):
    """Picks one node per attempt.

    `nodes` are all registered instances, usable or not, in the registry's order; a balancer
    whose layout must not move when an instance flaps (consistent hash) needs the unusable
    ones too. A node with weight 0 is never picked.
    """

    uses_key: ClassVar[bool] = False
    """The engine computes a key for each request only if this is set."""
    reads_load: bool = False
    """Before each pick the engine brings `node.load` up to what all workers have in flight, only
    if this is set; without it `load` must not be read. Ask the balancer, not its class: a
    parameter may switch it on."""
    follows_load: bool = False
    """The engine calls `load_changed`: found by whether the class overrides it, not to be
    declared. A parameter may switch it off for one balancer."""
    follows_answers: bool = False
    """The engine calls `answered`: found and switched off like `follows_load`."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Parameter → lowest and highest value the configuration accepts, both included. A
    parameter's default is accepted even outside of them, so 0 may mean "off" where the
    smallest useful value is 1."""
    meanings: ClassVar[Mapping[str, str]] = {}
    """Parameter → one sentence for its row in docs/configuration.md, with the limits."""

    def __init_subclass__(cls) -> None:
        cls.follows_load = cls.load_changed is not Balancer.load_changed
        cls.follows_answers = cls.answered is not Balancer.answered

    @abstractmethod
    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        """Balancers with parameters take them as further keyword-only arguments, annotated
        `int`, `float`, `str` or `bool`, with defaults: the configuration accepts exactly those."""

    @abstractmethod
    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        """A usable node that is not in `tried`, or None when there is none."""

    def load_changed(self, node: Node) -> None:
        """`node.load` is different now. Called after each change, if it is overridden."""

    def answered(self, node: Node, seconds: float, now: float) -> None:
        """`node` has begun to answer, so many seconds after it was asked, at `now`: seconds of a
        monotonic clock. Called for each answer of this worker, if it is overridden."""

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        """Take over a difference: `nodes` are new, or show another `weight`, `share` or `usable`;
        `gone` are not in the pool any more; all others are as they were.

        Returns False, and has changed nothing, if the balancer is to be built anew instead, as it
        is unless this is overridden. One that takes it over does so at the cost of the difference:
        a pool may have tens of thousands of nodes, and all requests of a worker wait meanwhile."""
        return False

    def inherit(self, previous: Self) -> None:
        """Take over what `previous`, which served the same service and is not asked any more, had
        learnt."""

    def settle(self) -> bool:
        """Do a little, half a millisecond's worth at most, of what `__init__`, `inherit` or
        `changed` have put off; True if there is more to do. Until then `pick` goes by what is there
        already, and afterwards as if all had been done at once. The engine calls it until it
        returns False; for whoever never does, `pick` does the rest."""
        return False
