"""Registries that are asked for everything: which answers are believed, and what becomes of the
others, on stepped time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from proxy.membership import Instance, Membership
from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer, Step, believe
from proxy.registry.followed import Timing
from proxy.registry.polled import Polled
from proxy.registry.roster import Roster, single
from tests.support.loop_and_network import SteppedLoop


def service_of(key: bytes) -> str:
    return key.decode().partition("/")[0]


def answer(*names: str, left: Sequence[str] = (), **fields: Any) -> Answer:
    records = {name.encode(): b"80" for name in names}
    gone = frozenset(name.encode() for name in left)
    return Answer(records=records, left=gone, **{"source": "a", **fields})


FOUR = answer("u/1", "u/2", "u/3", "u/4", revision=7)


@pytest.mark.parametrize(
    ("before", "said", "step", "reason"),
    [
        (None, answer(), Step.ADOPT, ""),
        (None, answer("u/1"), Step.ADOPT, ""),
        (None, answer(refused="no rights"), Step.ASK_AGAIN, "refused"),
        (FOUR, answer("u/1", "u/2", "u/3", "u/4", "u/5", revision=8), Step.ADOPT, ""),
        (FOUR, answer("u/1", "u/2", revision=8), Step.ADOPT, ""),
        (FOUR, answer("u/1", revision=8), Step.HOLD, "shrunk"),
        (FOUR, answer(revision=8), Step.HOLD, "empty"),
        (FOUR, answer("v/1", revision=8), Step.HOLD, "empty"),
        (FOUR, answer("u/6", "u/7", "u/8", revision=8), Step.ADOPT, ""),  # a roll-out
        (answer("u/1", "v/1", "v/2"), answer("v/1", "v/2"), Step.HOLD, "empty"),
        (FOUR, answer("u/1", "u/2", revision=6), Step.HOLD, "went_back"),
        (FOUR, answer("u/1", "u/2", source="b", revision=6), Step.ASK_AGAIN, "went_back"),
        (FOUR, answer("u/1", "u/2", "u/3", source="b", revision=8), Step.HOLD, "moved"),
        (FOUR, answer("u/1", "u/2", "u/3", "u/4", source="b", revision=8), Step.ADOPT, ""),
        (FOUR, answer(left=["u/1", "u/2", "u/3", "u/4"], revision=8), Step.ADOPT, ""),
        (FOUR, answer("u/1", left=["u/2"], revision=8), Step.HOLD, "shrunk"),
        (FOUR, answer("u/1", refused="no rights", revision=8), Step.ASK_AGAIN, "refused"),
    ],
)
def test_an_answer_is_believed_for_what_it_names_and_for_the_absence_of_a_few(
    before: Answer | None, said: Answer, step: Step, reason: str
) -> None:
    assert believe(before, said, service_of) == (step, reason)


def test_an_older_answer_is_believed_for_what_it_names_if_all_say_so() -> None:
    older = answer("u/1", "u/2", source="b", revision=6)
    assert believe(FOUR, older, service_of, asked_again=True) == (Step.HOLD, "went_back")


def test_an_answer_after_an_outage_is_believed_for_what_it_names() -> None:
    restarted = answer("u/1", "u/2", "u/3", revision=7)
    assert believe(FOUR, restarted, service_of, returned=True) == (Step.HOLD, "returned")
    assert believe(FOUR, FOUR, service_of, returned=True) == (Step.ADOPT, "")


def test_a_place_without_a_service_is_no_pool_that_could_be_emptied() -> None:
    before = answer("u/1", "/mistake")
    assert believe(before, answer("u/1"), service_of) == (Step.ADOPT, "")


# ------------------------------------------------------------------------- the provider


class Server:
    def __init__(self, url: str) -> None:
        self.url = url
        self.said: Answer | Exception | None = answer(source=url)

    async def disconnect(self) -> None:
        """Nothing is open."""


def read(key: bytes, value: bytes) -> tuple[Instance, str]:
    service, _, id_ = key.decode().partition("/")
    return Instance(service=service, id=id_, address="10.0.0.1", port=int(value)), ""


TIMING = Timing(probe=5.0, hold=10.0)


class Scripted(Polled[Server]):
    """Says what its server was told to say."""

    name = "scripted"

    def __init__(self, loop: SteppedLoop, servers: list[Server]) -> None:
        roster = Roster(single(read), service_of)
        rng = random.Random(1)
        super().__init__(servers, roster, timing=TIMING, rng=rng, clock=loop.time)

    async def _poll(self, connection: Server) -> Answer | None:
        if isinstance(connection.said, Exception):
            raise connection.said
        return connection.said


class Stepped:
    def __init__(self, *urls: str) -> None:
        self.loop = SteppedLoop()
        self.servers = [Server(url) for url in urls]
        self.provider = Scripted(self.loop, self.servers)
        self.memberships: list[Membership] = []
        self.task = self.loop.create_task(self._read())

    async def _read(self) -> None:
        async for membership in self.provider.watch():
            self.memberships.append(membership)

    def say(self, *names: str) -> None:
        for server in self.servers:
            server.said = answer(*names, source=server.url)

    def fail(self, error: Exception) -> None:
        for server in self.servers:
            server.said = error

    def ids(self) -> str:
        services = self.memberships[-1].services if self.memberships else {}
        return "".join(one.id for one in services.get("u", ()))

    def comes_up(self) -> None:
        self.say("u/1", "u/2", "u/3")
        self.loop.advance(1.0)
        assert self.ids() == "123"


@pytest.fixture
def stepped() -> Iterator[Stepped]:
    made = Stepped("a")
    yield made
    close = made.loop.create_task(made.provider.close())
    made.loop.advance(1.0)
    assert close.done()
    assert made.task.done()
    assert made.loop.failures == []


INTERVAL = TIMING.probe * 1.1 + 0.1


def test_a_change_is_seen_at_the_next_question_and_nothing_else_is_a_membership(
    stepped: Stepped,
) -> None:
    stepped.comes_up()
    stepped.loop.advance(10 * INTERVAL)
    assert len(stepped.memberships) == 1
    stepped.say("u/1", "u/3")
    stepped.loop.advance(INTERVAL)
    assert stepped.ids() == "13"
    assert dict(stepped.provider.status().resyncs) == {}


def test_a_pool_that_an_answer_empties_is_retained_until_answers_have_lacked_it_for_the_hold(
    stepped: Stepped,
) -> None:
    stepped.comes_up()
    stepped.say()
    stepped.loop.advance(INTERVAL)
    assert stepped.provider.status().resyncs == {"empty": 1}
    assert stepped.ids() == "123"
    held = stepped.provider.status().retained
    assert [(one.id, "(empty)" in one.why) for one in held] == [
        ("1", True),
        ("2", True),
        ("3", True),
    ]
    stepped.loop.advance(TIMING.hold - INTERVAL)
    assert stepped.ids() == "123"
    stepped.loop.advance(INTERVAL)
    assert stepped.ids() == ""
    assert stepped.provider.status().retained == ()


def test_an_answer_that_was_partial_for_a_moment_changes_nothing(stepped: Stepped) -> None:
    stepped.comes_up()
    stepped.say("u/2")
    stepped.loop.advance(INTERVAL)
    assert stepped.provider.status().resyncs == {"shrunk": 1}
    stepped.say("u/1", "u/2", "u/3")
    stepped.loop.advance(TIMING.hold + 2 * INTERVAL)
    assert len(stepped.memberships) == 1


def test_the_retained_outlast_an_outage_that_follows(stepped: Stepped) -> None:
    stepped.comes_up()
    stepped.say()
    stepped.loop.advance(INTERVAL)
    stepped.fail(RegistryError("refused"))
    stepped.loop.advance(100.0)
    assert not stepped.provider.status().connected
    assert stepped.ids() == "123"
    stepped.say("u/1", "u/2", "u/3")
    stepped.loop.advance(10.0)
    assert len(stepped.memberships) == 1


def test_an_answer_that_may_hide_something_is_an_outage(stepped: Stepped) -> None:
    stepped.comes_up()
    [server] = stepped.servers
    server.said = answer(refused="the token may not list")
    stepped.loop.advance(INTERVAL)
    status = stepped.provider.status()
    assert (status.connected, status.last_error) == (False, "a: the token may not list")
    assert stepped.ids() == "123"


def test_a_registry_that_means_all_it_says_is_believed_at_once(stepped: Stepped) -> None:
    stepped.provider.states_all = True  # type: ignore[misc]  # as a class of its own would
    stepped.comes_up()
    stepped.say()
    stepped.loop.advance(INTERVAL)
    assert stepped.ids() == ""


def test_an_answer_without_news_keeps_what_is_known(stepped: Stepped) -> None:
    stepped.comes_up()
    [server] = stepped.servers
    server.said = None
    stepped.loop.advance(10 * INTERVAL)
    assert stepped.provider.status().connected
    assert len(stepped.memberships) == 1


def test_an_older_answer_of_another_server_is_not_taken_while_one_knows_better() -> None:
    stepped = Stepped("a", "b")
    for server in stepped.servers:
        server.said = answer("u/1", "u/2", source=server.url, revision=7)
    stepped.loop.advance(1.0)
    first = stepped.provider.status().endpoint
    for server in stepped.servers:
        if server.url == first:
            server.said = RegistryError("refused")
        else:
            server.said = answer("u/1", source=server.url, revision=6)
            late = server
    stepped.loop.advance(INTERVAL)
    assert stepped.ids() == "12"
    late.said = answer("u/1", "u/2", "u/3", source=late.url, revision=8)
    stepped.loop.advance(2 * INTERVAL)
    assert stepped.ids() == "123"
    close = stepped.loop.create_task(stepped.provider.close())
    stepped.loop.advance(1.0)
    assert close.done()


def test_an_outage_in_which_nothing_changed_leaves_no_doubt(stepped: Stepped) -> None:
    stepped.comes_up()
    [server] = stepped.servers
    stepped.fail(RegistryError("refused"))
    stepped.loop.advance(20.0)
    server.said = None
    stepped.loop.advance(20.0)
    stepped.say("u/1", "u/2")
    stepped.loop.advance(INTERVAL)
    assert stepped.ids() == "12"


def test_an_answer_after_an_outage_takes_nobody_at_once(stepped: Stepped) -> None:
    stepped.comes_up()
    stepped.fail(RegistryError("refused"))
    stepped.loop.advance(20.0)
    stepped.say("u/1", "u/2")
    stepped.loop.advance(10.0)
    assert stepped.provider.status().resyncs == {"returned": 1}
    assert stepped.ids() == "123"
    stepped.loop.advance(TIMING.hold)
    assert stepped.ids() == "12"


def test_instances_that_are_said_to_have_left_go_at_once_and_the_others_stay(
    stepped: Stepped,
) -> None:
    stepped.comes_up()
    [server] = stepped.servers
    server.said = answer(left=["u/2"])
    stepped.loop.advance(INTERVAL)
    assert stepped.ids() == "13"
    server.said = answer(left=["u/2", "u/3"])
    stepped.loop.advance(INTERVAL)
    assert stepped.ids() == "1"


def test_an_empty_first_answer_is_waited_out_where_servers_come_up_empty(stepped: Stepped) -> None:
    stepped.provider.empty_start = 30.0  # type: ignore[misc]  # as a class of its own would
    stepped.say()
    stepped.loop.advance(20.0)
    assert stepped.memberships == []
    assert not stepped.provider.status().connected
    stepped.loop.advance(20.0)
    assert stepped.memberships[0].services == {}
    assert stepped.provider.status().connected


@pytest.mark.parametrize(("other", "left"), [(("u/1", "u/2", "u/3"), "123"), ((), "")])
def test_an_answer_that_empties_a_pool_is_held_against_that_of_another_server(
    other: tuple[str, ...], left: str
) -> None:
    stepped = Stepped("a", "b")
    stepped.comes_up()
    first = stepped.provider.status().endpoint
    for server in stepped.servers:
        server.said = answer(*() if server.url == first else other, source=server.url)
    stepped.loop.advance(INTERVAL)
    assert stepped.provider.status().endpoint != first
    assert stepped.ids() == "123"
    stepped.loop.advance(TIMING.hold + INTERVAL)
    assert stepped.ids() == left
    close = stepped.loop.create_task(stepped.provider.close())
    stepped.loop.advance(1.0)
    assert close.done()
