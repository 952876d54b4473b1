"""The same bytes in other pieces mean the same, wherever they are cut."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support.h11_peers import ANSWERS, RECEIVED, REQUESTS, SENT, converse, cut

STREAM = b"".join(REQUESTS)
STEP = 1 if os.environ.get("FAIRLEAD_HYPOTHESIS") == "deep" else 3
"""Every place takes seconds: the inner loop tries each third, and all cuts at once below."""
WHOLE = [[answer] for answer in ANSWERS]


@pytest.mark.parametrize("start", range(0, len(STREAM), 100))
def test_requests_cut_once_anywhere(make: Any, start: int) -> None:
    for place in range(start, min(start + 100, len(STREAM)), STEP):
        seen, got = converse(make(), cut(STREAM, [place]), WHOLE)
        assert tuple(seen) == SENT, place
        assert tuple(got) == RECEIVED, place


def test_requests_byte_by_byte(make: Any) -> None:
    seen, got = converse(make(), cut(STREAM, range(len(STREAM))), WHOLE)
    assert tuple(seen) == SENT
    assert tuple(got) == RECEIVED


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_answers_cut_once_anywhere(make: Any, number: int) -> None:
    for place in range(1, len(ANSWERS[number]), STEP):
        answers = list(WHOLE)
        answers[number] = cut(ANSWERS[number], [place])
        seen, got = converse(make(), [STREAM], answers)
        assert tuple(seen) == SENT, place
        assert tuple(got) == RECEIVED, place


def test_answers_byte_by_byte(make: Any) -> None:
    answers = [cut(answer, range(len(answer))) for answer in ANSWERS]
    seen, got = converse(make(), cut(STREAM, range(len(STREAM))), answers)
    assert tuple(seen) == SENT
    assert tuple(got) == RECEIVED
