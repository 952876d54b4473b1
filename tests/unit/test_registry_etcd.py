"""What the provider decides without a registry: settings, rotation, prefix ends."""

from __future__ import annotations

import random

import pytest

from proxy.registry.etcd import EtcdProvider, Rotation
from proxy.registry.etcd_gateway import Gateway, prefix_end
from proxy.settings.registry import RegistrySettings


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:2379",
        "ftp://127.0.0.1",
        "http://",
        "http://h:port",
        "http://h:70000",
        "http://u:p@h",
        "http://h/v3",
        "http://h?x",
        "http://h#x",
    ],
)
def test_endpoints_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        EtcdProvider(RegistrySettings(type="etcd", endpoints=(url,)))


def test_a_password_in_an_endpoint_is_not_repeated() -> None:
    with pytest.raises(ValueError, match=r"http://\.\.\.@h") as caught:
        Gateway("http://user:secret@h")
    assert "secret" not in str(caught.value)


def test_endpoints_are_needed() -> None:
    with pytest.raises(ValueError, match=r"registry\.endpoints"):
        EtcdProvider(RegistrySettings(type="etcd"))


@pytest.mark.parametrize("url", ["http://h", "https://h:1", "http://[::1]:2379/", "http://h:2379"])
def test_endpoints_that_are_taken(url: str) -> None:
    assert repr(Gateway(url)) == f"<Gateway {url.rstrip('/')}>"


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"/services/", b"/services0"),
        (b"a", b"b"),
        (b"a\xff\xff", b"b"),
        ("ä".encode(), b"\xc3\xa5"),
        (b"\xff", b"\x00"),
        (b"", b"\x00"),
    ],
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end


def rotation(size: int = 3, seed: int = 1) -> Rotation:
    return Rotation(size, random.Random(seed), first=0.02, limit=5.0)


def test_endpoints_are_tried_in_turn_from_a_random_start() -> None:
    assert len({rotation(seed=seed).current for seed in range(30)}) == 3
    turn = rotation()
    seen = []
    for _ in range(6):
        seen.append(turn.current)
        turn.advance()
    assert set(seen[:3]) == {0, 1, 2}
    assert seen[:3] == seen[3:]


def test_delays_double_under_full_jitter_up_to_the_limit() -> None:
    draws = [[turn.delay() for _ in range(30)] for turn in map(rotation, [1] * 400, range(400))]
    for attempt, ceiling in enumerate((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.0, 5.0)):
        column = [row[attempt] for row in draws]
        assert 0.9 * ceiling < max(column) <= ceiling
        assert min(column) < 0.1 * ceiling
    assert max(map(max, draws)) <= 5.0


def test_progress_starts_the_delays_anew() -> None:
    turn = rotation()
    for _ in range(20):
        turn.delay()
    turn.progress()
    assert turn.delay() <= 0.02
