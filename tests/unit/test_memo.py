"""What is remembered: the latest, within its room."""

from __future__ import annotations

from proxy.http.memo import ENTRY, Memo
from tests.support.sizes import deep_size


def look_up(memo: Memo[bytes, bytes], key: bytes) -> bool:
    """As its users do. True if it was there."""
    known = memo.young.get(key)
    if known is None:
        known = memo.old.get(key)
        memo.put(key, key * 2 if known is None else known, ENTRY + 3 * len(key))
    return known is not None


def test_a_memo_never_holds_more_than_its_room() -> None:
    memo: Memo[bytes, bytes] = Memo(100_000, 10_000)
    largest = 0
    for number in range(5000):
        look_up(memo, (b"%d" % number).ljust(number % 2000))
        largest = max(largest, deep_size([memo.young, memo.old]))
    assert 40_000 < largest <= 100_000


def test_entries_that_are_asked_for_stay_and_the_others_go() -> None:
    memo: Memo[bytes, bytes] = Memo(100_000, 10_000)
    look_up(memo, b"once")
    assert not look_up(memo, b"always")
    for number in range(5000):
        look_up(memo, b"%d" % number)
        assert look_up(memo, b"always")
    assert look_up(memo, b"4999")
    assert not look_up(memo, b"once")


def test_an_entry_that_is_too_large_pushes_no_other_out() -> None:
    memo: Memo[bytes, bytes] = Memo(100_000, 10_000)
    look_up(memo, b"small")
    for _ in range(1000):
        assert not look_up(memo, bytes(4000))
    assert look_up(memo, b"small")


def test_a_memo_forgets_when_it_is_told_to() -> None:
    memo: Memo[bytes, bytes] = Memo(100_000, 10_000)
    look_up(memo, b"x")
    memo.clear()
    assert not look_up(memo, b"x")
