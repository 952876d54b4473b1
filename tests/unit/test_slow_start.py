"""Slow start on stepped time: from a tenth to all, relative to the oldest."""

from __future__ import annotations

import pytest

from proxy.control.slow_start import SCALE, SlowStart, scaled

WINDOW = 30.0


def test_a_share_grows_linearly_from_a_tenth() -> None:
    ramp = SlowStart()
    ramp.observe({"old", "new"}, ["new"], 100.0)
    for age, share in [(0, 0.1), (1.5, 0.1), (3, 0.1), (6, 0.2), (15, 0.5), (29.9, 29.9 / 30)]:
        assert ramp.shares(["old", "new"], WINDOW, 100.0 + age) == {"new": pytest.approx(share)}
    assert ramp.shares(["old", "new"], WINDOW, 130.0) == {}
    assert not ramp


def test_a_pool_that_is_new_as_a_whole_is_neutral() -> None:
    ramp = SlowStart()
    ramp.observe({"a", "b"}, ["a", "b"], 0.0)
    for now in (0.0, 10.0, 29.0):
        assert ramp.shares(["a", "b"], WINDOW, now) == {}


def test_newcomers_are_measured_against_the_oldest() -> None:
    ramp = SlowStart()
    ramp.observe({"a"}, ["a"], 0.0)
    ramp.observe({"a", "b"}, ["b"], 9.0)
    assert ramp.shares(["a", "b"], WINDOW, 18.0) == {
        "a": 1.0,
        "b": pytest.approx(9.0 / 18.0),
    }
    # Nothing jumps when the oldest has its full weight.
    just_before = ramp.shares(["a", "b"], WINDOW, 29.999)["b"]
    assert ramp.shares(["a", "b"], WINDOW, 30.0)["b"] == pytest.approx(just_before, abs=0.001)


def test_an_instance_that_leaves_is_forgotten_and_new_again_later() -> None:
    ramp = SlowStart()
    ramp.observe({"old", "new"}, ["new"], 0.0)
    ramp.observe({"old"}, [], 10.0)
    assert not ramp
    ramp.observe({"old", "new"}, ["new"], 20.0)
    assert ramp.shares(["old", "new"], WINDOW, 20.0) == {"new": 0.1}


def test_weights_are_whole_and_a_drained_one_stays_drained() -> None:
    assert scaled(1, 1.0) == SCALE
    assert scaled(1, 0.1) == SCALE // 10
    assert scaled(1, 0.001) == 1
    assert scaled(3, 0.5) == 3 * SCALE // 2
    assert scaled(0, 0.5) == 0
