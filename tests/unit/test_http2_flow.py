"""Windows, and content that waits for one."""

from __future__ import annotations

from proxy.http2.flow import LARGEST_WINDOW, Pieces, ReceiveWindow, SendWindow


def test_a_window_grows_up_to_the_largest() -> None:
    window = SendWindow(LARGEST_WINDOW - 1)
    assert window.grow(1)
    assert not window.grow(1)


def test_a_window_may_become_negative() -> None:
    """RFC 9113 §6.9.2: SETTINGS that make it smaller than what is under way."""
    window = SendWindow(100)
    window.left -= 80
    assert window.grow(-60)
    assert window.left == -40
    assert window.grow(41)
    assert window.left == 1


def test_a_window_is_given_back_by_halves() -> None:
    window = ReceiveWindow(100)
    assert window.take(100)
    assert window.give(49) == 0
    assert window.left == 0
    assert window.give(1) == 50
    assert window.left == 50
    assert window.give(49) == 0
    assert not window.take(51)


def test_a_window_that_is_enlarged_tells_at_once() -> None:
    window = ReceiveWindow(100)
    window.take(40)
    window.give(40)
    assert window.enlarge(1000) == 940
    assert window.left == 1000
    assert window.enlarge(1000) == 0
    assert window.enlarge(10) == 0


def test_small_pieces_are_joined() -> None:
    content = Pieces(0)
    content.put([b"a"])
    content.put([b"b", b"c"])
    assert content.take(2) == [b"ab"]
    content.put([b"d", 1024 * b"e"])
    assert content.size == 1026
    assert content.take(9000) == [b"cd", 1024 * b"e"]


def test_content_is_cut_where_there_is_no_room() -> None:
    content = Pieces(0)
    first, second, third = 1500 * b"a", 1100 * b"b", 1200 * b"c"
    content.put([first, b"", second, third])
    assert content.size == 3800
    assert content.take(0) == []
    assert content.take(1500)[0] is first
    assert content.take(1200) == [second, third[:100]]
    assert content.take(50) == [third[100:150]]
    assert content.size == 1050
    assert content.take(2000) == [third[150:]]
    assert content.take(100) == []
    content.put([b"xyz"])
    content.take(1)
    content.clear()
    assert (content.size, content.take(9)) == (0, [])
