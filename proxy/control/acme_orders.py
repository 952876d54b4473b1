"""Certificates that are obtained by the configuration in force, and the challenges that all workers
answer meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from proxy.control.acme import Acme
from proxy.control.acme_turns import Challenges
from proxy.messages import AcmeChallenges

TAKEN_LIMIT = 10.0
"""Seconds for all workers to have taken a challenge, those that are starting included. Nobody but
the order waits for it."""

LAST_CHALLENGE = 15.0
"""Seconds for an order that is given up to take back its challenge."""


class AcmeOrders:
    """Owns who obtains certificates, if anybody does, and the challenges that workers answer."""

    def __init__(
        self,
        acme: Acme | None,
        own: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        send: Callable[[AcmeChallenges], None],
        taken: Callable[[int, float], Awaitable[bool]],
        tell: Callable[..., None],
    ) -> None:
        """`acme`: started already; `own` runs work until the end; `send`: to all workers; `taken`
        waits until all of them have taken the challenges of that number, so many seconds at most;
        `tell`: as `Reactions.tell`."""
        self.acme = acme
        self.challenges: tuple[AcmeChallenges, ...] = ()
        """The last, if there was one: for new workers."""
        self._own = own
        self._send = send
        self._taken = taken
        self._tell = tell
        self._task: asyncio.Task[None] | None = None
        """The latest that obtained some."""

    def use(self, acme: Acme | None) -> None:
        """Obtain certificates by this one from here on; None: no more. `acme`: started already."""
        self.acme, before = acme, self._task
        if before is not None:
            before.cancel()
        if acme is not None:
            self._task = self._own(self._run(acme, before), "acme")

    async def _run(self, acme: Acme, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before], timeout=LAST_CHALLENGE)
        await acme.run(self.publish, self._tell)

    async def publish(self, challenges: Challenges, limit: float = TAKEN_LIMIT) -> bool:
        """Let all workers answer these; False if some have not said within `limit` seconds that
        they do."""
        number = sum(one.number for one in self.challenges) + 1
        message = AcmeChallenges(number, *challenges)
        self.challenges = (message,)
        self._send(message)
        return await self._taken(number, limit)
