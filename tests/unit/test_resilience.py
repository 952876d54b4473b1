"""The worker's policies on stepped time: `now` is a number, nothing sleeps."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.load import Board
from proxy.engine.resilience.breaker import TRIALS, Breaker, State
from proxy.engine.resilience.concurrency import Concurrency
from proxy.engine.resilience.limits import SECRET, SIZE, BucketTable
from proxy.engine.resilience.policies import LIMIT_OF, Policies
from proxy.engine.resilience.queue import Queue, Waiter
from proxy.engine.resilience.retry import FLOOR, HORIZON, RetryBudget
from proxy.errors import RATE_LIMITED, RATE_TABLE_FULL
from proxy.settings.service import RateLimitSettings, ServiceSettings


class TestRetryBudget:
    def drain(self, budget: RetryBudget, requests: int) -> int:
        spent = 0
        while budget.spend(requests):
            spent += 1
        return spent

    def test_the_floor_is_there_without_any_request(self) -> None:
        assert self.drain(RetryBudget(0.2), 0) == FLOOR

    def test_five_requests_earn_one_retry(self) -> None:
        budget = RetryBudget(0.25)  # A power of two, so that the sums are exact.
        self.drain(budget, 0)
        assert [budget.spend(n) for n in range(1, 9)] == [False, False, False, True] * 2

    def test_savings_are_forgotten(self) -> None:
        budget = RetryBudget(0.2)
        for _ in range(HORIZON + 1):
            budget.tick(1000)
        assert self.drain(budget, 1000) == FLOOR

    def test_recent_traffic_is_not_forgotten(self) -> None:
        budget = RetryBudget(0.25)
        for _ in range(HORIZON - 1):
            budget.tick(1000)
        assert self.drain(budget, 1000) == 250 + FLOOR

    @given(
        share=st.sampled_from([0.0, 0.1, 0.2, 1.0]),
        steps=st.lists(st.sampled_from(["request", "retry", "tick"]), max_size=300),
    )
    def test_retries_never_exceed_their_share(self, share: float, steps: list[str]) -> None:
        budget = RetryBudget(share)
        requests, retries = 0, 0
        for step in steps:
            if step == "request":
                requests += 1
            elif step == "tick":
                budget.tick(requests)
            elif budget.spend(requests):
                retries += 1
            assert retries <= FLOOR + share * requests + 1e-6


class TestBreaker:
    def make(self) -> Breaker:
        return Breaker(ratio=0.5, min_requests=20, window=10.0, open=10.0)

    def trip(self, breaker: Breaker, now: float = 0.0) -> None:
        for _ in range(20):
            assert breaker.admit(now)
            breaker.on_result(True, now, breaker.opened)

    def test_a_breaker_stays_closed_below_the_number_of_requests(self) -> None:
        breaker = self.make()
        for _ in range(19):
            assert breaker.admit(0.0)
            breaker.on_result(True, 0.0, breaker.opened)
        assert breaker.state is State.CLOSED
        assert breaker.admit(0.0)
        breaker.on_result(True, 0.0, breaker.opened)
        assert breaker.state is State.OPEN
        assert breaker.opened == 1

    def test_a_breaker_stays_closed_below_the_ratio(self) -> None:
        breaker = self.make()
        for turn in range(200):
            assert breaker.admit(0.0)
            breaker.on_result(turn % 5 < 2, 0.0, breaker.opened)
        assert breaker.state is State.CLOSED

    def test_old_failures_leave_the_window(self) -> None:
        breaker = self.make()
        for _ in range(19):
            breaker.admit(0.0)
            breaker.on_result(True, 0.0, breaker.opened)
        for _ in range(19):
            breaker.admit(11.0)
            breaker.on_result(True, 11.0, breaker.opened)
        assert breaker.state is State.CLOSED

    def test_open_refuses_until_its_time_has_passed(self) -> None:
        breaker = self.make()
        self.trip(breaker)
        assert not breaker.admit(0.0)
        assert not breaker.admit(9.99)
        assert breaker.admit(10.0)
        assert breaker.state is State.TRYING

    def test_trials_that_succeed_close_it(self) -> None:
        breaker = self.make()
        self.trip(breaker)
        admitted = [breaker.admit(10.0) for _ in range(TRIALS + 2)]
        assert admitted == [True] * TRIALS + [False, False]
        for _ in range(TRIALS):
            breaker.on_result(False, 10.1, breaker.opened)
        assert breaker.state is State.CLOSED
        self.trip(breaker, 10.2)  # A clean slate: it takes as many failures again.
        assert breaker.opened == 2

    def test_one_failed_trial_opens_it_again(self) -> None:
        breaker = self.make()
        self.trip(breaker)
        assert breaker.admit(10.0)
        breaker.on_result(True, 11.0, breaker.opened)
        assert not breaker.admit(20.9)
        assert breaker.admit(21.0)

    def test_a_trial_whose_client_left_is_tried_by_another(self) -> None:
        breaker = self.make()
        self.trip(breaker)
        assert [breaker.admit(10.0) for _ in range(TRIALS)] == [True] * TRIALS
        assert not breaker.admit(10.0)
        breaker.on_abandoned(breaker.opened)
        assert breaker.admit(10.0)

    def test_requests_admitted_before_it_opened_change_nothing(self) -> None:
        breaker = self.make()
        assert breaker.admit(0.0)
        self.trip(breaker)
        breaker.on_result(False, 1.0, turn=0)
        assert breaker.state is State.OPEN
        assert breaker.admit(10.0)
        for _ in range(TRIALS):
            breaker.on_abandoned(turn=0)
            breaker.on_result(False, 10.0, turn=0)
            breaker.on_result(True, 10.0, turn=0)
        assert breaker.state is State.TRYING
        assert [breaker.admit(10.0) for _ in range(TRIALS)] == [True] * (TRIALS - 1) + [False]

    @given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=400))
    def test_a_breaker_is_open_no_longer_than_told(self, steps: list[tuple[bool, float]]) -> None:
        breaker = Breaker(ratio=0.3, min_requests=3, window=5.0, open=4.0)
        now, refused_since = 0.0, None
        for failed, wait in steps:
            now += wait
            if breaker.admit(now):
                refused_since = None
                breaker.on_result(failed, now, breaker.opened)
            else:
                refused_since = now if refused_since is None else refused_since
                assert now - refused_since < 4.0


class TestBucketTable:
    def make(self) -> BucketTable:
        return BucketTable(memoryview(bytearray(SIZE)))

    def test_a_burst_then_the_rate(self) -> None:
        table = self.make()
        taken = [table.take(7, 0.01, 5, now=100.0) for _ in range(6)]
        assert taken[:5] == [0.0] * 5
        assert taken[5] == pytest.approx(0.01)
        assert table.take(7, 0.01, 5, now=100.0099) > 0
        assert table.take(7, 0.01, 5, now=100.0101) == 0

    def test_a_bucket_fills_up_again(self) -> None:
        table = self.make()
        for _ in range(5):
            table.take(7, 0.01, 5, now=100.0)
        assert [table.take(7, 0.01, 5, now=200.0) for _ in range(5)] == [0.0] * 5

    def test_keys_do_not_share_a_bucket_even_in_neighbouring_cells(self) -> None:
        table = self.make()
        keys = [1, 2, 3, 1 << 40, (1 << 40) + 1]
        for key in keys:
            assert [table.take(key, 1.0, 2, now=10.0) for _ in range(3)][:2] == [0.0, 0.0]
        for key in keys:
            assert table.take(key, 1.0, 2, now=10.0) > 0

    def test_two_workers_share_it(self) -> None:
        memory = memoryview(bytearray(SIZE))
        first, second = BucketTable(memory), BucketTable(memory)
        assert first.take(7, 1.0, 2, now=10.0) == 0
        assert second.take(7, 1.0, 2, now=10.0) == 0
        assert first.take(7, 1.0, 2, now=10.0) > 0
        assert second.take(7, 1.0, 2, now=10.0) > 0

    def test_a_key_without_a_place_is_refused_until_there_may_be_one(self) -> None:
        table = BucketTable(memoryview(bytearray(SECRET + 2 * 16)))
        assert table.take(1, 10.0, 5, now=100.0) == 0
        assert table.take(2, 30.0, 5, now=100.0) == 0
        assert table.take(3, 10.0, 5, now=100.0) == -10.0
        assert table.take(3, 10.0, 5, now=109.9) == pytest.approx(-0.1)
        assert table.take(1, 10.0, 5, now=109.9) == 0  # Who has a place keeps it,
        assert table.take(3, 10.0, 5, now=111.0) == pytest.approx(-9.0)
        assert table.take(3, 10.0, 5, now=121.0) == 0  # until the bucket is full.

    def test_where_a_key_lies_is_a_secret_of_each_start(self) -> None:
        def key_of_a_start() -> int:
            board = Board.create(1)
            keys = [BucketTable(board.buckets).key_of(b"shop", b"ann") for _ in range(2)]
            board.close()
            assert keys[0] == keys[1]  # All workers agree, those that replace another included.
            return keys[0]

        assert key_of_a_start() != key_of_a_start()

    def test_services_have_buckets_of_their_own(self) -> None:
        table = self.make()
        assert table.key_of(b"shop", b"ann") != table.key_of(b"cart", b"ann")

    def test_a_request_for_whose_key_there_is_no_place_is_told_apart(self) -> None:
        settings = ServiceSettings(rate_limit=RateLimitSettings(requests=1, per=60.0))
        policies = Policies(7, settings, BucketTable(memoryview(bytearray(SECRET + 16))))
        assert policies.admit(b"ann", 100.0) is None
        known, unknown = policies.admit(b"ann", 101.0), policies.admit(b"bob", 101.0)
        assert known is not None
        assert unknown is not None
        assert (known.fault, known.retry_after) == (RATE_LIMITED, 59.0)
        assert (unknown.fault, unknown.retry_after) == (RATE_TABLE_FULL, 59.0)
        assert LIMIT_OF[known.fault] != LIMIT_OF[unknown.fault]


class TestQueue:
    def test_first_come_first_served(self) -> None:
        queue, (a, b, c) = Queue(2), (Waiter(), Waiter(), Waiter())
        assert queue.enqueue(a)
        assert queue.enqueue(b)
        assert not queue.enqueue(c)
        assert [queue.dequeue(), queue.dequeue(), queue.dequeue()] == [a, b, None]

    def test_a_waiter_that_leaves_makes_room(self) -> None:
        queue, (a, b, c) = Queue(2), (Waiter(), Waiter(), Waiter())
        queue.enqueue(a)
        queue.enqueue(b)
        queue.leave(a)
        queue.leave(Waiter())
        assert queue.enqueue(c)
        assert len(queue) == 2
        assert queue.dequeue() == b

    def test_a_waiter_that_leaves_is_not_searched_for_among_all_others(self) -> None:
        # Thousands of clients that hang up together would hold everybody else up for seconds.
        compared = 0

        class Counting:
            def __eq__(self, other: object) -> bool:
                nonlocal compared
                compared += 1
                return self is other

            __hash__ = object.__hash__

        queue = Queue(1000)
        if type(queue).leave.__class__.__name__ != "function":
            pytest.skip("what is compiled takes nothing but a Waiter")
        waiters = [cast(Waiter, Counting()) for _ in range(1000)]
        for waiter in waiters:
            queue.enqueue(waiter)
        for waiter in reversed(waiters):
            queue.leave(waiter)
        assert len(queue) == 0
        assert compared < 100


def test_failures_count_only_if_they_take_longer_than_answers_should() -> None:
    limit = Concurrency(0.9, 0.0)
    now = 0.0

    def ask(seconds: float, answered: bool, times: int) -> None:
        nonlocal now
        for _ in range(times):
            limit.inflight += 1
            limit.leave(now, now + seconds, answered)
            now += seconds

    ask(0.1, True, 100)  # The unloaded service.
    before = limit.limit
    ask(0.01, False, 500)
    assert limit.limit == before
    ask(5.0, False, 100)
    assert limit.limit < before / 1.9
