"""Who obtains certificates when the configuration changes in the middle of an order."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.control.acme import Publish
from proxy.control.acme_orders import AcmeOrders
from proxy.messages import AcmeChallenges


class Ordering:
    """An `Acme` that is in the middle of an order until it is cancelled."""

    def __init__(self, token: str) -> None:
        self.token = token

    async def run(self, publish: Publish, tell: object) -> None:
        await publish(({self.token: "answer"}, {}))
        try:
            await asyncio.Event().wait()
        finally:
            await publish(({}, {}))


async def test_an_order_that_is_given_up_has_taken_back_its_challenge_before_the_next() -> None:
    sent: list[list[str]] = []
    first: Any = Ordering("first")
    second: Any = Ordering("second")

    def send(message: AcmeChallenges) -> None:
        sent.append(list(message.tokens))

    async def taken(number: int, limit: float) -> bool:
        await asyncio.sleep(0)
        return True

    tasks: list[asyncio.Task[None]] = []

    def own(work: Any, name: str) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work, name=name))
        return tasks[-1]

    async def settled() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    orders = AcmeOrders(first, own, send, taken, lambda *_, **__: None)
    orders.use(first)
    await settled()
    orders.use(None)
    orders.use(second)
    await settled()
    assert sent == [["first"], [], ["second"]]
    assert [message.number for message in orders.challenges] == [3]
    orders.use(None)
    await settled()
    assert sent[-1] == []
    assert all(task.done() for task in tasks)
