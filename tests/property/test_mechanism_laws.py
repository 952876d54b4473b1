"""Whatever happens and in whatever order: the laws of the small machines, each against the
simplest model of it, on stepped time."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.judging import panics
from proxy.control.slow_start import FLOOR, SlowStart
from proxy.engine.resilience.limits import SECRET, BucketTable
from proxy.engine.resilience.queue import Queue, Waiter
from proxy.health.base import Endpoint
from proxy.health.schedule import FASTER, JITTER, Candidate, Rules, Schedule, Target
from proxy.messages import Status
from proxy.registry.decorators.failover import RETURN_AFTER, FailoverPolicy


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(["join", "leave", "call"]), st.integers(0, 6))),
)
def test_a_queue_is_a_list_with_a_bound(size: int, steps: list[tuple[str, int]]) -> None:
    queue, waiters = Queue(size), [Waiter() for _ in range(7)]
    model: list[int] = []
    for what, who in steps:
        if what == "join" and who not in model:
            assert queue.enqueue(waiters[who]) == (len(model) < size)
            model += [who] * (len(model) < size)
        elif what == "leave":
            queue.leave(waiters[who])
            model = [one for one in model if one != who]
        elif what == "call":
            assert queue.dequeue() is (waiters[model.pop(0)] if model else None)
        assert len(queue) == len(model) <= size


LIMITS = {1: (1.0, 3), 2: (0.1, 5), 3: (7.0, 2), 4: (50.0, 1)}
"""Seconds per token and burst, as the last digit of a key says."""


@given(
    st.integers(1, 10),
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from(sorted(LIMITS)),
            st.booleans(),
            st.sampled_from([0.0, 0.0, 0.0, 0.05, 0.5, 3.0, 40.0]),
        ),
        min_size=20,
        max_size=200,
    ),
)
def test_no_key_gets_more_than_its_burst_and_rate_whatever_others_ask(
    places: int, steps: list[tuple[int, int, bool, float]]
) -> None:
    memory = memoryview(bytearray(SECRET + places * 16))
    workers = BucketTable(memory), BucketTable(memory)
    now = 100.0
    allowed: dict[int, list[float]] = {}
    for who, limit, worker, wait in steps:
        now += wait
        interval, burst = LIMITS[limit]
        key = 10 * who + limit
        if workers[worker].take(key, interval, burst, now) == 0:
            times = allowed.setdefault(key, [])
            times.append(now)
            for first, begun in enumerate(times):  # Whichever stretch of time one looks at.
                assert len(times) - first <= burst + (now - begun) / interval + 1e-3


keys = st.sets(st.sampled_from("abcd"), min_size=1)


@given(st.floats(0.1, 100), st.lists(st.tuples(keys, keys, st.floats(0, 30)), max_size=15))
def test_slow_start_is_fair_and_ends(
    window: float, steps: list[tuple[set[str], set[str], float]]
) -> None:
    ramp, now = SlowStart(), 0.0
    since: dict[str, float] = {}
    """Since when those that are new are ready."""
    for ready, new, wait in steps:
        now += wait
        newcomers = ready & new
        ramp.observe(ready, newcomers, now)
        since = {key: at for key, at in since.items() if key in ready}
        since |= dict.fromkeys(newcomers, now)
        since = {key: at for key, at in since.items() if now - at < window}
        shares = ramp.shares(ready, window, now)
        assert shares.keys() <= since.keys()
        assert all(FLOOR <= share <= 1.0 for share in shares.values())
        # Somebody has all of its weight: that new ones have little is only felt beside others.
        assert max(shares.get(key, 1.0) for key in ready) == 1.0
        if ready - since.keys():
            ages = {key: max(FLOOR, (now - at) / window) for key, at in since.items()}
            assert shares == ages
        # Who is ready for longer has no less.
        for key in shares:
            assert all(
                shares[key] <= shares.get(one, 1.0) for one in since if since[one] <= since[key]
            )
    assert ramp.shares("abcd", window, now + 1.001 * window) == {}
    assert not ramp


statuses = st.lists(st.sampled_from(["ready", "unhealthy", "ejected", "draining"]), max_size=12)


@given(statuses, st.floats(0, 1))
def test_panic_serves_somebody_and_ends_with_health(of: list[Status], threshold: float) -> None:
    in_panic = panics(of, threshold)
    serving = [one for one in of if one == "ready" or (in_panic and one != "draining")]
    assert bool(serving) == any(one != "draining" for one in of)
    assert panics([one for one in of if one != "draining"], threshold) == in_panic
    assert not panics(["ready" for _ in of], threshold)
    for at, one in enumerate(of):
        if one in ("unhealthy", "ejected") and not in_panic:
            assert not panics([*of[:at], "ready", *of[at + 1 :]], threshold)


@given(
    st.integers(0, 100),
    st.sampled_from([0.5, 5.0, 60.0]),
    st.lists(st.tuples(keys, st.booleans(), st.floats(0.01, 3)), min_size=1, max_size=40),
)
def test_instances_are_checked_once_an_interval_and_none_that_left(
    seed: int, interval: float, steps: list[tuple[set[str], bool, float]]
) -> None:
    schedule, rules, now = Schedule(Random(seed)), Rules(interval, 3, 2), 0.0
    since: dict[str, float] = {}
    """Who is there, and when the last check began, or it came."""
    for there, ok, wait in steps:
        candidates = [Candidate(key, Endpoint("10.0.0.1", 1), True) for key in sorted(there)]
        assert set(schedule.update("s", rules, candidates, now)) == since.keys() - there
        since = {key: since.get(key, now) for key in there}
        now += wait
        due: list[Target] = schedule.due(now, 100)
        assert len({target.key for target in due}) == len(due)
        for target in due:
            assert target.key in there
            schedule.done(target, ok, "", now, now)
            since[target.key] = now
        # Whoever was not due has had its check within an interval.
        assert all(now - at <= interval * (1 + JITTER) + 1e-9 for at in since.values())
        in_transition = [target for target in due if target.standing.in_transition]
        if in_transition and schedule.next_at is not None:
            assert schedule.next_at - now <= min(interval, FASTER) * (1 + JITTER) + 1e-9


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1))
def test_the_registry_in_use_is_never_left_for_a_worse_one(
    size: int, checks: list[tuple[int, bool]]
) -> None:
    policy = FailoverPolicy(size)
    good = [0] * size
    active: int | None = None
    for index, ok in checks:
        index %= size
        policy.checked(index, ok)
        good[index] = good[index] + 1 if ok else 0
        chosen = policy.choose(active)
        if chosen != active:
            assert chosen is not None
            assert good[chosen] > 0
            if active is not None and policy.alive[active]:
                assert chosen < active
                assert good[chosen] >= RETURN_AFTER
        elif active is not None and policy.alive[active] is False:
            assert not any(good)  # No other one lives.
        active = chosen
        assert policy.choose(active) == active
