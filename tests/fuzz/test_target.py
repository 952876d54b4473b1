"""Seconds of what `long.py` does for as long as one likes: its seeds, what it once found, and
scripts that hypothesis makes up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.target import PHRASES, SEEDS, play, script
from tests.support.strict_http import Violation, read_answers, read_requests

speech = st.tuples(st.sampled_from(["client", "instance"]), st.binary(min_size=1, max_size=64))
phrase = st.tuples(st.sampled_from(["client", "instance"]), st.sampled_from(PHRASES[:-1]))
happening = st.tuples(st.just("act"), st.integers(0, 15))


def test_every_seed() -> None:
    assert len(SEEDS) == 242
    for seed in SEEDS:
        play(seed)


@given(st.lists(st.one_of(phrase, phrase, speech, happening), max_size=24))
def test_scripts_of_sentences(steps: list[tuple[str, bytes | int]]) -> None:
    play(script(*steps))


@given(st.binary(max_size=400))
def test_scripts_of_anything(noise: bytes) -> None:
    play(noise)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 05\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nA:b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    ],
)
def test_the_judge_is_strict(raw: bytes) -> None:
    with pytest.raises(Violation):
        read_requests(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Same\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
    ],
)
def test_the_judge_of_answers_is_strict(raw: bytes) -> None:
    with pytest.raises(Violation):
        read_answers(raw)
