"""Instances with nothing behind them, as balancers and workers see them."""

from __future__ import annotations

from proxy.messages import PoolNode


class Instance:
    """A balancer's node."""

    __slots__ = ("id", "key", "load", "share", "usable", "weight")

    def __init__(self, number: int, weight: int = 1) -> None:
        self.id = f"instance-{number}"
        self.key = f"{self.id}@10.0.{number >> 8}.{number & 255}:8080"
        self.weight = weight
        self.share = 1.0
        self.usable = True
        self.load = 0


def pool_node(number: int, weight: int = 1) -> PoolNode:
    """The same in a snapshot; the number is its column of the board, too."""
    one = Instance(number, weight)
    address = f"10.0.{number >> 8}.{number & 255}"
    return PoolNode(one.key, one.id, address, 8080, weight, "ready", number)
