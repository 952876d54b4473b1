"""What goes on beside a request, in the real proxy: copies for a mirror, second attempts of slow
requests, and a limit that is found by how long answers take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.e2e.origin import Call, Gate, Origin, echo, origins, slow
from tests.e2e.raw_http import Answer, ask
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually
from tests.support.scraping import samples

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 12
"""Requests at once, more than a limit that is found by itself begins with."""


@dataclass
class Site:
    """A proxy and two instances, of which the second also gets copies of the first's requests."""

    proxy: RunningProxy
    one: Origin
    two: Origin

    async def ask(self, line: str, body: bytes = b"") -> Answer:
        method, _, target = line.partition(" ")
        return await ask(self.proxy.port, method, target, (), body)

    async def counts(self, name: str, number: int, **labels: str) -> None:
        """Wait until a counter says so."""
        text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))

        async def counted() -> bool:
            _, page = await self.proxy.get("/metrics")
            return samples(page).get(f"{name}{{{text}}}") == number

        await eventually(counted, what=f"{name} {labels} {number}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with origins("one", "two") as (one, two):
        config = {
            "services": {
                "copied": {"instances": [one.instance], "mirror": {"service": "shadow"}},
                "shadow": {"instances": [two.instance]},
                "hedged": {
                    "instances": [one.instance, two.instance],
                    "hedge": {"after": "50ms", "max_share": 1},
                    "retry": {"budget": 1},
                },
                "limited": {"instances": [one.instance], "adaptive_concurrency": {}},
            },
            "routes": [{"path_prefix": "/{service}"}],
        }
        async with RunningProxy(config, tmp_path_factory.mktemp("beside")) as proxy:
            yield Site(proxy, one, two)


@pytest.fixture
def site(running: Site) -> Site:
    for origin in (running.one, running.two):
        origin.script = echo
        origin.calls.clear()
    return running


async def hang(call: Call) -> None:
    """Say nothing until the proxy closes the connection."""
    await call.reader.read()
    call.closing = True


async def test_a_mirror_gets_what_the_instance_gets_and_nobody_waits_for_it(site: Site) -> None:
    async def fail(call: Call) -> None:
        await call.reply(await call.read(), 500)

    site.two.script = fail
    answer = await site.ask("POST /copied/x?y=1", b"z" * 100_000)
    assert (answer.status, answer["X-Origin"], answer.body) == (200, "one", b"z" * 100_000)
    await eventually(lambda: site.two.calls and site.two.calls[0].body, what="the copy")
    [original], [copy] = site.one.calls, site.two.calls
    assert copy.body == original.body
    assert {*copy.head.fields} == {*original.head.fields}

    gate = site.two.script = Gate()
    for _ in range(20):
        assert (await site.ask("GET /copied"))["X-Origin"] == "one"
    await eventually(lambda: site.two.in_flight == 20, what="as many copies, which wait")
    await site.counts("fairlead_mirrored_total", 21, service="shadow", result="sent")
    gate.open()
    await eventually(lambda: not site.two.in_flight, what="the end of the copies")


async def test_a_slow_get_is_asked_of_another_instance_and_a_post_is_not(site: Site) -> None:
    gate = Gate()

    async def halting(call: Call) -> None:
        await (gate if call.method == "POST" else hang)(call)

    site.one.script = halting
    posts = [asyncio.create_task(site.ask("POST /hedged", b"once")) for _ in range(2)]
    await eventually(lambda: site.one.in_flight == 1, what="one that waits")
    answers = [await site.ask("GET /hedged") for _ in range(6)]
    assert [(answer.status, answer["X-Origin"]) for answer in answers] == [(200, "two")] * 6
    slow_ones = sum(call.method == "GET" for call in site.one.calls)
    assert slow_ones
    await eventually(lambda: site.one.in_flight == 1, what="the end of those that were outrun")
    await site.counts("fairlead_hedges_total", slow_ones, service="hedged", result="won")
    gate.open()
    assert {(await post)["X-Origin"] for post in posts} == {"one", "two"}
    calls = [*site.one.calls, *site.two.calls]
    assert sum(call.method == "POST" for call in calls) == 2


async def test_a_limit_grows_while_answers_are_fast_and_shrinks_when_they_are_not(
    site: Site,
) -> None:
    async def let_in() -> int:
        """Ask `MANY` at once; how many of them got to the instance."""
        gate = site.one.script = Gate()
        asked = [asyncio.create_task(site.ask("GET /limited")) for _ in range(MANY)]
        await eventually(
            lambda: site.one.in_flight + sum(task.done() for task in asked) == MANY,
            what="requests that were let in, or refused at once",
        )
        found = site.one.in_flight
        gate.open()
        answers = await asyncio.gather(*asked)
        refused = [answer for answer in answers if answer["X-Origin"] is None]
        assert len(refused) == MANY - found
        for answer in refused:
            assert (answer.status, json.loads(answer.body)["code"]) == (503, "queue_full")
        return found

    assert await let_in() == 2  # Nothing is known of the instance.

    async def has_grown() -> bool:
        site.one.script = echo
        for _ in range(100):
            assert (await site.ask("GET /limited")).status == 200
        return await let_in() > 2

    await eventually(has_grown, 30, "a higher limit")

    async def has_shrunk() -> bool:
        site.one.script = slow(0.03)
        for _ in range(10):
            await asyncio.gather(*[site.ask("GET /limited") for _ in range(MANY)])
        return await let_in() == 2

    await eventually(has_shrunk, 30, "the lowest limit")
