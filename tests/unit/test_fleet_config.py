"""The key of a shared configuration: whom a text is for."""

from __future__ import annotations

import json

import pytest

from proxy.fleet.config import Canary, choose, digest, range_of
from proxy.registry.etcd.wire import KeyValue

KEY = "/fairlead/config/main"
IDS = [f"proxy-{number}" for number in range(1000)]


def held(main: bytes | None = b"main", canary: bytes | None = None) -> dict[bytes, KeyValue]:
    found = {KEY: main, f"{KEY}.canary": canary}
    return {
        key.encode(): KeyValue(key=key.encode(), value=value, mod_revision=at)
        for at, (key, value) in enumerate(found.items(), 7)
        if value is not None
    }


def test_a_canary_is_for_those_it_names_and_the_key_for_all_others() -> None:
    canary = json.dumps({"text": "canary", "to": ["b"]}).encode()
    for id_, text, place, revision in (
        ("a", "main", f"etcd:{KEY}", 7),
        ("b", "canary", f"etcd:{KEY}.canary", 8),
    ):
        chosen = choose(held(canary=canary), KEY, id_)
        assert chosen.shared is not None
        assert chosen.canary == (id_ == "b")
        found = chosen.shared
        assert (found.text, found.place, found.revision) == (text, place, revision)


def test_a_share_means_so_many_and_a_larger_one_all_of_them_and_more() -> None:
    few, more = ({id_ for id_ in IDS if Canary("", share=share).means(id_)} for share in (0.1, 0.3))
    assert few < more
    assert 60 < len(few) < 140
    assert 240 < len(more) < 360
    assert not any(Canary("").means(id_) for id_ in IDS)
    assert all(Canary("", share=1.0).means(id_) for id_ in IDS)


@pytest.mark.parametrize(
    ("main", "canary", "text"),
    [
        (None, None, None),
        (b"\xff", None, None),
        (b"main", b"no JSON", "main"),
        (b"main", b'{"to": ["a"]}', "main"),
        (b"main", b'{"text": "x", "share": "all"}', "main"),
        (b"\xef\xbb\xbfmain", None, "main"),
    ],
)
def test_a_key_that_cannot_be_read_is_told_and_harms_no_other(
    main: bytes | None, canary: bytes | None, text: str | None
) -> None:
    chosen = choose(held(main, canary), KEY, "a")
    assert (None if chosen.shared is None else chosen.shared.text) == text
    assert bool(chosen.problem) == (main == b"\xff" or canary is not None)


def test_a_range_has_the_key_and_its_canary_and_not_its_history() -> None:
    start, end = range_of(KEY)
    assert all(start <= f"{KEY}{more}".encode() < end for more in ("", ".canary"))
    assert not start <= f"{KEY}.history/1".encode() < end


def test_a_digest_is_the_same_for_the_same_text() -> None:
    assert digest("a") == digest("a") != digest("b")
