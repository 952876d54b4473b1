"""What a reporter finds worth writing, and when it asks again."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest
from prometheus_client import CollectorRegistry

from proxy.health.base import Check, Endpoint, Verdict
from proxy.register.reporter import HealthReporter, Report, Reporting, checking

GOOD, BAD = Verdict(True, "HTTP 200"), Verdict(False, "HTTP 503")


def test_the_first_verdict_counts_at_once() -> None:
    assert Reporting().observe(GOOD, 0.0) == Report("healthy", "HTTP 200")
    assert Reporting().observe(BAD, 0.0) == Report("unhealthy", "HTTP 503")


def test_until_it_is_good_once_each_verdict_counts() -> None:
    reporting = Reporting(fall=3, rise=2)
    written = [reporting.observe(verdict, 0.0) for verdict in [BAD, BAD, GOOD, BAD, BAD, GOOD]]
    assert written == [
        *(Report("unhealthy", "HTTP 503"), None, Report("healthy", "HTTP 200"), None, None, None)
    ]


def test_only_changes_are_written() -> None:
    reporting = Reporting(fall=3, rise=2)
    written = [
        reporting.observe(verdict, float(now))
        for now, verdict in enumerate([GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD, BAD, BAD, GOOD, GOOD])
    ]
    assert [(now, report) for now, report in enumerate(written) if report is not None] == [
        (0, Report("healthy", "HTTP 200")),
        (7, Report("unhealthy", "HTTP 503")),
        (10, Report("healthy", "HTTP 200")),
    ]


def test_a_message_alone_is_written_now_and_then() -> None:
    reporting = Reporting()
    written = [reporting.observe(Verdict(True, f"load {now}"), float(now)) for now in range(25)]
    assert [now for now, report in enumerate(written) if report is not None] == [0, 10, 20]
    assert written[20] == Report("healthy", "load 20")


def test_a_heartbeat_says_nothing_new() -> None:
    reporting = Reporting(heartbeat=300.0)
    written = [reporting.observe(GOOD, float(now)) for now in range(0, 1000, 5)]
    beats = [(5 * i, report) for i, report in enumerate(written) if report is not None]
    assert beats == [(0, Report("healthy", "HTTP 200"))] + [
        (at, Report(None)) for at in (300, 600, 900)
    ]


def test_a_reporter_asks_faster_while_it_matters() -> None:
    reporting = Reporting()
    rng = random.Random(1)

    def gaps() -> list[float]:
        return [reporting.gap(5.0, rng) for _ in range(100)]

    assert all(0.22 < gap < 0.28 for gap in gaps())  # never asked
    reporting.observe(BAD, 0.0)
    assert all(0.22 < gap < 0.28 for gap in gaps())  # never good
    assert reporting.observe(GOOD, 1.0) == Report("healthy", "HTTP 200")
    steady = gaps()
    assert all(4.5 <= gap <= 5.5 for gap in steady)
    assert max(steady) - min(steady) > 0.5  # a fleet must not ask in step
    reporting.observe(BAD, 3.0)
    assert all(0.9 <= gap <= 1.1 for gap in gaps())
    assert reporting.gap(0.1, rng) < 0.12  # never slower than asked for


@pytest.mark.parametrize(
    ("question", "kind", "endpoint"),
    [
        ("http://127.0.0.1:8080/health?deep=1", "http", ("127.0.0.1", 8080)),
        ("http://users.local", "http", ("users.local", 80)),
        ("https://[::1]:8443/", "http", ("::1", 8443)),
        ("tcp://127.0.0.1:5432", "tcp", ("127.0.0.1", 5432)),
        ("exec:pg_isready -q", "exec", ("10.0.0.1", 7)),
        (lambda: True, "callable", ("10.0.0.1", 7)),
    ],
)
def test_forms_of_a_question(question: str, kind: str, endpoint: tuple[str, int]) -> None:
    check, where = checking(question, 2.5, Endpoint("10.0.0.1", 7))
    assert (check.name, check.timeout, where[:2]) == (kind, 2.5, endpoint)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "8080",
        "http://",
        "http:///x",
        "tcp://host",
        "tcp://h:1/x",
        "udp://h:1",
        "exec:",
        "http://h:99999/",
        "http://[::1/",
    ],
)
def test_a_check_that_is_no_question_is_refused(question: str) -> None:
    with pytest.raises(ValueError, match=r"check|command"):
        checking(question, 1.0)


@pytest.mark.parametrize(("fall", "rise"), [(0, 1), (1, 0)])
def test_thresholds_that_are_none(fall: int, rise: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Reporting(fall, rise)


class Script(Check):
    """Good, then without a descriptor, then good again, and then no more answers."""

    name = "script"

    def __init__(self, without: int) -> None:
        super().__init__(timeout=60.0)
        self._asked = 0
        self._without = without
        self.over = asyncio.Event()

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        self._asked += 1
        if 1 < self._asked <= 1 + self._without:
            raise OSError(errno.EMFILE, "Too many open files")
        if self._asked > 2 + self._without:
            self.over.set()
            await asyncio.Event().wait()
        return True, "well"


class Told:
    def __init__(self) -> None:
        self.words: list[str] = []

    def report(self, status: str, message: str = "") -> None:
        self.words.append(f"{status}: {message}")

    def seen(self) -> None:
        self.words.append("seen")


async def test_a_want_of_descriptors_says_nothing_of_the_service() -> None:
    check, told, registry = Script(without=5), Told(), CollectorRegistry()
    reporter = HealthReporter(
        told, (check, Endpoint("", 0)), interval=1e-6, fall=1, services=("users",), metrics=registry
    )
    async with reporter, asyncio.timeout(5):
        await check.over.wait()
    assert told.words == ["healthy: well"]
    assert reporter.healthy
    counted = {
        status: registry.get_sample_value(
            "health_checks_total", {"service_name": "users", "status": status}
        )
        for status in ("healthy", "unhealthy", "skipped")
    }
    assert counted == {"healthy": 2.0, "unhealthy": None, "skipped": 5.0}
