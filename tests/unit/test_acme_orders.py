"""Orders in the middle: who obtains certificates when the configuration changes, and what a server
says of one that it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from proxy.control.acme import AcmeError, Publish
from proxy.control.acme_client import _Conversation
from proxy.control.acme_orders import AcmeOrders
from proxy.messages import AcmeChallenges
from proxy.settings.acme import AcmeSettings
from proxy.tls.acme import AccountKey, new_key


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


class Refusing(_Conversation):
    """A conversation with a server that gives up an order once its names are proved."""

    asked: tuple[str, ...] = ()

    async def _ask(
        self, method: str, url: str, content: bytes | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        self._nonce = "n"
        self.asked += (url,)
        error = {"type": "urn:ietf:params:acme:error:caa", "detail": "not us"}
        order = {"authorizations": [], "finalize": "finalize", "status": "invalid", "error": error}
        answers: dict[str, Any] = {
            "directory": {"newNonce": "nonce", "newAccount": "account", "newOrder": "order"},
            "order": {**order, "status": "pending"},
            "place": order,
        }
        return {"Location": "place"}, msgspec.json.encode(answers.get(url))


async def test_an_order_that_the_server_gives_up_is_told_with_its_reason() -> None:
    async def publish(_: object) -> bool:
        return True

    settings = AcmeSettings(directory="directory", domains=("a.example",))
    session: Any = None
    refusing = Refusing(session, settings, AccountKey(new_key()))
    with pytest.raises(AcmeError, match="the order is invalid: caa: not us"):
        await refusing.order("a.example", "http-01", publish)
    assert "finalize" not in refusing.asked
