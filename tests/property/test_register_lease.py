"""Laws of a lease's life against a simulated etcd: whatever is lost, late or ended, it is held
again soon after etcd answers, and it never asks more often than it may."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.register.backend import Lease
from proxy.register.lease import LeaseLife, Step

TTL = 9.0
MAX_DELAY = 5.0


class Etcd:
    """One lease: alive until its time, unless it is ended before."""

    def __init__(self) -> None:
        self.ids = 0
        self.ends: dict[int, float] = {}

    def grant(self, now: float) -> int:
        self.ids += 1
        self.ends[self.ids] = now + TTL
        return self.ids

    def keep_alive(self, lease: int, now: float) -> float:
        if self.ends.get(lease, 0.0) <= now:
            self.ends.pop(lease, None)
            return 0.0
        self.ends[lease] = now + TTL
        return TTL


fates = st.sampled_from(["answered", "answered", "lost on the way", "answer lost", "ended"])


@given(
    st.lists(st.tuples(fates, st.floats(0, MAX_DELAY), st.floats(0, 2)), max_size=60),
    st.booleans(),
)
def test_a_lease_comes_back_from_anything(
    script: list[tuple[str, float, float]], unsettled: bool
) -> None:
    etcd, life, now = Etcd(), LeaseLife(TTL), 100.0
    asked: list[float] = []
    renewed = 0.0

    def step(fate: str, delay: float, took: float) -> None:
        """Wait until something is due, and do it with this fate."""
        nonlocal now, unsettled, renewed
        what, at = life.next(now, unsettled)
        if what is Step.WAIT:
            assert at > now  # or it would spin
            assert at - now <= max(TTL / 3, MAX_DELAY)
            now = at
            return
        sent, now = now, now + took
        asked.append(sent)
        if fate == "lost on the way":
            life.failed(now, delay)
            return
        if fate == "ended" and life.lease is not None:
            etcd.ends.pop(life.lease.id, None)
        if what is Step.GRANT:
            lease, ttl = etcd.grant(now), TTL
        else:
            assert life.lease is not None
            lease, ttl = life.lease.id, etcd.ends.get(life.lease.id, 0.0) - now
            if what is Step.KEEP_ALIVE:
                ttl = etcd.keep_alive(lease, now)
        if fate == "answer lost":
            life.failed(now, delay)
        elif ttl <= 0:
            unsettled = True
            life.lost(now)
        elif what is Step.GRANT:
            life.granted(Lease(lease, TTL), sent)
            renewed = now
        elif what is Step.KEEP_ALIVE:
            life.kept(ttl, sent)
            renewed = now
        elif what is Step.SETTLE:
            unsettled = False
        else:
            life.checked()

    for fate, delay, took in script:
        step(fate, delay, took)
        # Never believed to live longer than etcd lets it, unless somebody ended it.
        if life.alive(now) and fate != "ended":
            assert life.lease is not None
            assert life.lease.id not in etcd.ends or etcd.ends[life.lease.id] >= now
    begun = now
    # Once renewed, whatever the failures before have used up of its time.
    while renewed <= begun or unsettled or life.lease is None or life.lease.id not in etcd.ends:
        step("answered", 0.0, 0.01)
        assert now - begun <= TTL / 3 + 2, "not held again in time"
    quiet = len(asked)
    until = now + 10 * TTL
    while now < until:
        step("answered", 0.0, 0.01)
        assert life.alive(now)
    # A keep-alive and a check every third of the TTL, and nothing else.
    assert len(asked) - quiet <= 2 * 31 + 2
