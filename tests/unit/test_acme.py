"""Orders of certificates in stepped time: when they are made, and what comes of them."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.control import status
from proxy.control.acme import (
    FIRST_WAIT,
    HOUR,
    LONGEST_SAID,
    LONGEST_WAIT,
    Acme,
    AcmeError,
    Challenges,
    Publish,
    Standing,
    StorageError,
)
from proxy.control.acme_client import RATE_LIMITED, error_from, retry_after
from proxy.settings.acme import AcmeSettings, AcmeStorage
from proxy.tls.acme import AccountKey
from proxy.tls.certificates import read_pair
from tests.support.certificates import DAY, NOW, Authority

AUTHORITY = Authority()
LIFE = 90 * DAY


class Late(Random):
    """Renews nothing earlier than it must."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Stage:
    """A server that issues what it is asked for, unless it has a reason not to, and the clock."""

    def __init__(self, storage: Path, *domains: str, **more: Any) -> None:
        self.settings = AcmeSettings(
            directory="https://ca.example/acme/directory",
            domains=domains or ("a.example",),
            storage=AcmeStorage(path=str(storage)),
            **more,
        )
        self.now = NOW
        self.life = LIFE
        self.failing: Exception | None = None
        self.orders: list[tuple[float, str, str]] = []
        """Seconds from the beginning, name, kind of challenge."""
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.until = 0.0
        self.acme = Acme(self.settings, self.obtain, lambda: self.now, self.sleep, Late())

    async def obtain(
        self, settings: AcmeSettings, key: AccountKey, name: str, kind: str, publish: Publish
    ) -> bytes:
        self.orders.append((self.now - NOW, name, kind))
        if self.failing is not None:
            raise self.failing
        number = len(self.orders)
        made = AUTHORITY.issue(
            name, number=number, not_before=self.now, not_after=self.now + self.life
        )
        return made.key + made.cert

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= HOUR
        if self.now + seconds > self.until:
            raise asyncio.CancelledError
        self.now += seconds

    async def run(self, seconds: float) -> list[float]:
        """Let time pass; when orders were made in it."""
        before = len(self.orders)
        self.until = self.now + seconds
        with pytest.raises(asyncio.CancelledError):
            await self.acme.run(self.publish, self.tell)
        self.now = self.until
        return [at for at, _, _ in self.orders[before:]]

    async def publish(self, challenges: Challenges) -> bool:
        return True

    def tell(self, what: str, **fields: Any) -> None:
        self.told.append((what, fields))

    def file(self, name: str = "a.example") -> Path:
        return Path(self.settings.file(name))


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path / "acme")
    await stage.acme.start()
    return stage


@pytest.mark.drill
async def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(stage: Stage) -> None:
    assert await stage.run(59 * DAY) == [0.0]
    first = stage.file().read_bytes()
    assert await stage.run(2 * DAY) == [60 * DAY]
    assert stage.file().read_bytes() != first
    stage.life = 6 * DAY
    assert await stage.run(64 * DAY) == [120 * DAY, 124 * DAY]
    assert stage.told[0] == ("acme_issued", {"name": "a.example", "renewal_in": 60 * DAY})
    assert list(stage.acme.samples()) == [
        ("fairlead_acme_orders_total", {"name": "a.example", "result": result}, count)
        for result, count in (("issued", 4), ("failed", 0))
    ]


@pytest.mark.drill
async def test_a_restart_finds_what_was_obtained(stage: Stage, tmp_path: Path) -> None:
    await stage.run(DAY)
    key = (stage.settings.place / "account.key").read_bytes()
    again = Stage(tmp_path / "acme")
    await again.acme.start()
    assert await again.run(59 * DAY) == []
    assert (stage.settings.place / "account.key").read_bytes() == key


async def test_a_server_for_tests_has_a_directory_of_its_own(stage: Stage) -> None:
    assert await stage.run(HOUR) == [0.0]
    tried = stage.file()
    stage.settings = replace(stage.settings, directory="https://ca.example/acme/other")
    assert stage.file() != tried
    stage.acme = Acme(stage.settings, stage.obtain, lambda: stage.now, stage.sleep, Late())
    await stage.acme.start()
    assert len(await stage.run(HOUR)) == 1
    assert stage.file().exists()
    assert tried.exists()


def test_renewals_of_names_that_came_together_are_spread() -> None:
    made = AUTHORITY.issue("a.example", not_before=NOW, not_after=NOW + LIFE)
    facts, rng = read_pair(made.cert, made.key), Random(1)
    names = [Standing() for _ in range(50)]
    for name in names:
        name.found(facts, rng)
    renewals = [(name.due - NOW) / DAY for name in names]
    assert 58.5 < min(renewals) < 59 < 59.5 < max(renewals) <= 60
    for name in names:
        name.found(facts, rng)  # What is known already is not put off.
    assert renewals == [(name.due - NOW) / DAY for name in names]


@pytest.mark.parametrize("content", [b"", b"-----BEGIN nothing", None])
async def test_a_file_that_is_gone_or_spoilt_is_ordered_again(
    stage: Stage, content: bytes | None
) -> None:
    await stage.run(DAY)
    if content is None:
        stage.file().unlink()
    else:
        stage.file().write_bytes(content)
    assert len(await stage.run(HOUR)) == 1


# ------------------------------------------------------------------------------ failures


async def test_failures_double_the_wait(stage: Stage) -> None:
    stage.failing = AcmeError("dns: no such name")
    orders = await stage.run(2 * DAY)
    pauses = [later - earlier for earlier, later in pairwise(orders)]
    assert pauses[:9] == [FIRST_WAIT * 2**n for n in range(9)]
    assert set(pauses[9:]) == {LONGEST_WAIT}
    assert stage.told[0] == (
        "acme_failed",
        {"name": "a.example", "problem": "dns: no such name", "retry_in": 60},
    )
    [document] = status.acme(stage.acme.names)
    assert (document["failures"], document["problem"]) == (len(orders), "dns: no such name")
    assert document["not_after"] is None
    stage.failing = None
    assert len(await stage.run(LONGEST_WAIT)) == 1
    stage.life = 60.0
    assert stage.acme.names["a.example"].failures == 0


async def test_a_clock_that_is_set_back_puts_no_order_off(stage: Stage) -> None:
    stage.failing = AcmeError("no")
    await stage.run(FIRST_WAIT - 1)
    stage.now -= 365 * DAY
    assert len(await stage.run(1.0)) == 1


async def test_the_next_kind_of_challenge_has_its_turn(stage: Stage) -> None:
    stage.failing = AcmeError("no")
    await stage.run(4 * FIRST_WAIT)
    assert [kind for _, _, kind in stage.orders] == ["http-01", "tls-alpn-01", "http-01"]


async def test_a_server_that_wants_to_be_left_alone_is(stage: Stage) -> None:
    stage.failing = AcmeError("rateLimited: too many", wait=3 * DAY)
    assert await stage.run(6 * DAY) == [0.0, 3 * DAY, 6 * DAY]


async def test_a_problem_drives_no_terminal(stage: Stage) -> None:
    stage.failing = AcmeError("\x1b[2J\n" + "x" * 1000)
    await stage.run(1.0)
    problem = stage.acme.names["a.example"].problem
    assert problem.isprintable()
    assert len(problem) == 500


async def test_a_name_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "acme", "a.example", "b.example")
    await stage.acme.start()
    obtain = stage.obtain

    async def only_b(*given: Any) -> bytes:
        stage.failing = AcmeError("no") if given[2] == "a.example" else None
        return await obtain(*given)

    stage.acme._obtain = only_b
    await stage.run(200.0)
    assert [(at, name) for at, name, _ in stage.orders] == [
        (0.0, "a.example"),
        (0.0, "b.example"),
        (60.0, "a.example"),
        (180.0, "a.example"),
    ]


async def test_a_certificate_that_cannot_be_written_is_not_ordered_again(stage: Stage) -> None:
    directory = stage.file().parent
    directory.rmdir()
    await stage.run(FIRST_WAIT * 2)
    assert [what for what, _ in stage.told] == ["acme_failed"] * 2
    directory.mkdir()
    await stage.run(HOUR)
    assert [what for what, _ in stage.told][2:] == ["acme_issued"]
    assert len(stage.orders) == 1
    assert stage.file().exists()


async def test_a_clock_that_is_wrong_does_not_order_without_end(stage: Stage) -> None:
    stage.life = 0.0
    assert await stage.run(3 * FIRST_WAIT) == [0.0, FIRST_WAIT, 3 * FIRST_WAIT]
    assert "the clock" in stage.acme.names["a.example"].problem


# ------------------------------------------------------------------------------- storage


def modes_below(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.rglob("*")}


async def test_files_that_cannot_be_read_are_not_ordered(stage: Stage) -> None:
    stage.file().mkdir()
    assert await stage.run(HOUR) == []
    stage.file().rmdir()
    assert len(await stage.run(HOUR)) == 1


async def test_a_file_that_cannot_be_read_keeps_no_other_name_from_its_order(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path / "acme", "a.example", "b.example")
    await stage.acme.start()
    stage.file().mkdir()
    assert await stage.run(HOUR) == [0.0]
    assert stage.file("b.example").is_file()
    stage.file().rmdir()
    assert len(await stage.run(HOUR)) == 1
    assert [name for _, name, _ in stage.orders] == ["b.example", "a.example"]


async def test_the_storage_is_for_its_owner(stage: Stage, tmp_path: Path) -> None:
    await stage.run(DAY)
    assert modes_below(tmp_path) == {
        "acme": 0o700,
        "ca.example-acme-directory": 0o700,
        "certificates": 0o700,
        "account.key": 0o600,
        "a.example.pem": 0o600,
    }


async def test_a_storage_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "acme")
    stage.settings.place.mkdir(parents=True)
    stage.settings.place.chmod(0o777)
    with pytest.raises(StorageError, match="others may write"):
        await stage.acme.start()


@pytest.mark.parametrize("made", ["file", "key"])
async def test_a_storage_that_cannot_be_used_is_told_of(tmp_path: Path, made: str) -> None:
    stage = Stage(tmp_path / "acme")
    if made == "file":
        (tmp_path / "acme").write_text("")
    else:
        stage.settings.place.mkdir(parents=True)
        (stage.settings.place / "account.key").write_text("no key")
    with pytest.raises(StorageError, match=str(stage.settings.place)):
        await stage.acme.start()


@pytest.mark.parametrize(
    ("headers", "body", "text", "wait"),
    [
        ({}, b"<html>", "https://ca.example/x answers 503", 0.0),
        ({"Retry-After": "7"}, b"", "https://ca.example/x answers 503", 7.0),
        ({}, b'{"type": "about:blank", "detail": "no"}', "about:blank: no", 0.0),
        ({}, b'{"type": "urn:ietf:params:acme:error:dns", "detail": "no"}', "dns: no", 0.0),
        (
            {},
            b'{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "no"}',
            "rateLimited: no",
            RATE_LIMITED,
        ),
        (
            {"Retry-After": "90"},
            b'{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "no"}',
            "rateLimited: no",
            90.0,
        ),
    ],
)
def test_an_error_says_what_the_server_does(
    headers: dict[str, str], body: bytes, text: str, wait: float
) -> None:
    error = error_from(503, headers, body, "https://ca.example/x")
    assert (str(error), error.wait) == (text, wait)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120.0),
        ("Mon, 21 Sep 2026 14:13:20 GMT", 0.0),
        ("Mon, 21 Sep 2026 14:14:20 GMT", 60.0),
        ("99999999999", LONGEST_SAID),
        ("soon", 0.0),
        ("Mon, 21 Sep 20260000000000000000 14:13:20 GMT", 0.0),
        ("", 0.0),
    ],
)
def test_a_time_to_wait_is_read(said: str, seconds: float) -> None:
    assert retry_after({"Retry-After": said}, NOW) == seconds


async def test_names_that_stay_go_on_where_they_are_under_another_configuration(
    stage: Stage,
) -> None:
    stage.failing = AcmeError("no")
    await stage.run(10)
    domains = replace(stage.settings, domains=("b.example", "a.example"))
    stage.acme = stage.acme.successor(domains)
    await stage.acme.start()
    assert await stage.run(FIRST_WAIT - 20) == [10.0]
    assert stage.orders[-1][1] == "b.example"
    # What was wrong may be mended by what else has changed; the counts go on.
    stage.acme = stage.acme.successor(replace(domains, email="ops@a.example"))
    await stage.acme.start()
    assert len(await stage.run(1)) == 2
    assert stage.acme.names["a.example"].failures == 1
    assert stage.acme.names["a.example"].orders["failed"] == 2
