"""Laws of chance over requests: by gaps it says the same as by a number drawn for each."""

from __future__ import annotations

from math import nextafter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.sampling import Sampling, gap
from proxy.http.messages import RequestFields
from proxy.http.trace_context import Propagation


@given(st.floats(1e-9, 0.999), st.integers(0, 40), st.floats(0.0, nextafter(1.0, 0.0)))
def test_a_gap_is_as_likely_as_so_many_refusals_in_a_row(
    share: float, least: int, drawn: float
) -> None:
    # P(gap >= n) = (1 - share) ** n, for `drawn` evenly from [0, 1).
    bound = 1.0 - (1.0 - share) ** least
    if abs(drawn - bound) > 1e-9:
        assert (gap(share, drawn) >= least) is (drawn > bound or not least)


@given(st.floats(0.0, nextafter(1.0, 0.0)))
def test_all_are_taken_or_none(drawn: float) -> None:
    assert gap(1.0, drawn) == 0
    assert gap(0.0, drawn) > 10**18
    assert gap(5e-324, drawn) >= 0


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.9])
def test_the_share_of_requests_that_are_taken_is_what_is_asked_for(share: float) -> None:
    propagation = Propagation(("w3c",))
    sampling = Sampling(share, propagation, Random(1).random)
    known, strange = RequestFields(b"", 0), RequestFields(b"", 0)
    known.orphan = propagation
    asked, taken, after = 200_000, 0, 0
    before = False
    for number in range(asked):
        if number % 3:  # Whose block was seen before
            now = not sampling.leaves_out(known) and sampling.takes()
        else:
            assert not sampling.leaves_out(strange)
            now = sampling.takes()
        taken += now
        after += now and before
        before = now
    assert taken / asked == pytest.approx(share, abs=5 * (share * (1 - share) / asked) ** 0.5)
    # Whether one is taken says nothing of the next.
    both = share * share
    assert after / asked == pytest.approx(both, abs=6 * (both / asked) ** 0.5 + 1e-5)
