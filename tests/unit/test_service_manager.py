"""The words for the service manager, and their order."""

from __future__ import annotations

import asyncio

import pytest

from proxy.control.service_manager import LONGEST_STATUS, ServiceManager, from_environment


class Told:
    """A service manager that has been told `messages`, in stepped time."""

    def __init__(self, watchdog: float = 0.0) -> None:
        self.messages: list[str] = []
        self.now = 5.0
        self.until = 0.0
        self.manager = ServiceManager(self.messages.append, watchdog, lambda: self.now, self.sleep)

    async def sleep(self, seconds: float) -> None:
        if self.now + seconds > self.until:
            raise asyncio.CancelledError
        self.now += seconds


def test_a_life() -> None:
    told = Told()
    told.manager.ready("serving")
    told.manager.reloading()
    told.manager.reloaded("reload refused: proxy.yaml:1: x: \nis no key")
    told.manager.status("all are known")
    told.manager.stopping("stopping")
    assert told.messages == [
        "READY=1\nSTATUS=serving",
        "RELOADING=1\nMONOTONIC_USEC=5000000\nSTATUS=reloading",
        "READY=1\nSTATUS=reload refused: proxy.yaml:1: x: is no key",
        "STATUS=all are known",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_a_reload_makes_nothing_ready_that_is_not() -> None:
    told = Told()
    told.manager.reloading()
    told.manager.reloaded("reloaded")
    assert told.messages == []
    told.manager.ready("serving")
    told.manager.reloading()
    told.manager.stopping("stopping")
    told.manager.reloaded("reloaded")
    told.manager.ready("serving")
    assert told.messages[-1] == "STOPPING=1\nSTATUS=stopping"


def test_a_status_is_cut() -> None:
    told = Told()
    told.manager.status("x" * 10_000)
    assert told.messages == [f"STATUS={'x' * LONGEST_STATUS}"]


async def test_signs_of_life_come_at_half_of_the_time_while_all_are_alive() -> None:
    told = Told(watchdog=20.0)
    begun, told.until = told.now, told.now + 100.0
    signs: list[float] = []

    def alive() -> bool:
        living = not 31.0 <= told.now - begun < 55.5
        if living:
            signs.append(told.now - begun)
        return living

    with pytest.raises(asyncio.CancelledError):
        await told.manager.keep_alive(alive)
    # At 40 somebody is silent, and the first look at which nobody is, is the next sign.
    assert signs == [0.0, 10.0, 20.0, 30.0, 56.0, 66.0, 76.0, 86.0, 96.0]
    assert told.messages == ["WATCHDOG=1"] * len(signs)


async def test_without_a_watchdog_no_sign_of_life_is_given() -> None:
    told = Told()
    await told.manager.keep_alive(lambda: True)
    assert told.messages == []


@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [({"WATCHDOG_USEC": "3000000"}, 3.0), ({"WATCHDOG_USEC": "soon"}, 0.0), ({}, 0.0)],
)
def test_the_environment_says_when_and_is_for_nobody_else(
    variables: dict[str, str], watchdog: float
) -> None:
    environ = {"OTHER": "x", **variables}
    assert from_environment(environ, lambda text: None)._watchdog == watchdog
    assert environ == {"OTHER": "x"}
