"""Whatever workers report: never too many out, never the last, and everybody comes back."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.ejections import Ejected, Ejections, PoolCounts, Refusal, allowed
from proxy.settings.service import EjectionSettings

steps = st.lists(
    st.one_of(
        st.tuples(st.just("suspect"), st.integers(0, 9)),
        st.tuples(st.just("pass"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.integers(0, 30)),
    ),
    max_size=60,
)
rules = st.builds(
    EjectionSettings,
    base=st.sampled_from([0.5, 10.0]),
    max=st.sampled_from([1.0, 300.0]),
    max_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


@given(steps, st.integers(1, 10), rules, st.integers(0, 100))
def test_laws(
    history: list[tuple[str, int]], size: int, settings: EjectionSettings, seed: int
) -> None:
    ejections = Ejections(Random(seed))
    now, out, total, kept = 0.0, dict[str, float](), 0, 0
    for what, number in history:
        key = str(number % size)
        if what == "wait":
            now += number
            for _, back in ejections.step(now):
                assert out.pop(back) <= now
        elif what == "pass":
            assert ejections.passed("s", key, now) == (out.pop(key, None) is not None)
        else:
            sight = PoolCounts(size, size - len(out), key not in out)
            found = ejections.suspect("s", key, sight, settings, now)
            if isinstance(found, Ejected):
                total += 1
                assert now < found.until <= now + settings.max
                out[key] = found.until
            else:
                kept += found in (Refusal.SHARE, Refusal.LAST)
        assert {str(n) for n in range(size) if ejections.is_out("s", str(n))} == set(out)
        assert len(out) <= allowed(size, settings.max_share)
        assert len(out) < size
        assert ejections.next_at == min(out.values(), default=None)
    assert sum(ejections.totals.values()) == total
    assert sum(ejections.refused.values()) == kept
    ejections.step(now + settings.max)
    assert ejections.next_at is None
