"""Changes that operators make to instances by hand, over what the registry says of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy.control.judging import NO_OVERRIDES
from proxy.control.pool import Changes
from proxy.control.pools import PoolRegistry
from proxy.control.reactions import Reactions


class ByHand:
    """Owns nothing: what is changed belongs to the pools."""

    def __init__(
        self, pools: PoolRegistry, reactions: Reactions, apply: Callable[[Changes], None]
    ) -> None:
        """`apply`: lets workers know of changes of the pools."""
        self._pools = pools
        self._reactions = reactions
        self._apply = apply

    def drain(self, service: str, id_: str, on: bool) -> bool:
        """No new requests for an instance, or again; False if nobody knows it. Holds for
        whatever is registered under that id, until it is undone or this process ends."""
        member = self._pools.named(service, id_)
        drained = self._pools.overrides.get(service, NO_OVERRIDES).drained
        if member is None and id_ not in drained:
            return False
        if on:
            self._pools.drain(service, id_)
        else:
            self._pools.undrain(service, id_)
        self._tell("drained" if on else "undrained", service, id_)
        return True

    def weigh(self, service: str, id_: str, weight: int) -> bool:
        """Another weight for an instance, until it registers anew; False if nobody knows it."""
        pool = self._pools.by_service.get(service)
        source = () if pool is None else pool.source
        instance = next((one for one in source if one.id == id_), None)
        if instance is None:
            return False
        self._pools.weigh(service, instance, weight)
        self._tell("weighed", service, id_, weight=weight)
        return True

    def mark(self, service: str, id_: str, by: str | None) -> None:
        """The fleet drains an instance, if it is known or not; None: no more."""
        if by is None:
            self._pools.undrain(service, id_, everywhere=True)
        else:
            self._pools.drain(service, id_, everywhere=by)
        self._tell("undrained" if by is None else "drained", service, id_, everywhere=True)

    def _tell(self, what: str, service: str, id_: str, **more: object) -> None:
        self._reactions.tell(what, service=service, instance=id_, **more)
        self._apply(self._pools.settle(time.monotonic()))
