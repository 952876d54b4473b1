"""What the pictures of balancing show is so."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.simulate import bursts, fleet, new_instance, picture, slow_instance, zones


def test_the_picture_is_one_and_the_same_each_time() -> None:
    drawn = picture(0.05)
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert drawn == picture(0.05)


def test_balancers_that_look_at_load_bear_a_slow_instance_better() -> None:
    worst = {name: points[-1][1] for name, points in slow_instance(2000).items()}
    for name in ("least_connections", "p2c", "peak_ewma"):
        assert worst[name] < worst["random"] / 1.7
    assert worst["peak_ewma"] < worst["random"] / 10


def test_bursts_pile_up_most_at_random() -> None:
    most = {name: points[-1][1] for name, points in bursts(2000).items()}
    assert all(one < most["random"] / 1.4 for name, one in most.items() if name != "random")


def test_a_new_instance_is_led_in() -> None:
    lines = new_instance(1000)
    shares = [share for _, share in lines["slow_start: 30s"]]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[-1] == 1.0
    assert {share for _, share in lines["slow_start: 0s"][1:]} == {1.0}


def test_a_zone_keeps_what_it_can_bear() -> None:
    for label, enough in (("zone, min_ready: 0.5", 0.5), ("first tier", 0.72)):
        for ready, stays in zones(20)[label]:
            assert (stays == 1.0) == (ready >= enough)
            assert stays > 0 or ready == 0


def test_a_few_proxies_that_count_by_themselves_are_as_good_as_one() -> None:
    for points in fleet(4000).values():
        milliseconds = dict(points)
        assert milliseconds[4] < 1.5 * milliseconds[1]
        assert milliseconds[32] > 2 * milliseconds[1]
