"""From samples to the table: medians, ratios, text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from bench.rounds import interval
from bench.scenarios import MIB, Unit

REFERENCE = "nginx"
"""The peer that ratios are relative to: the fastest that everybody has."""
NOISY = 0.15
"""Share of the proxy's core that others may use before a line warns of it; above this, caches
and frequency are somebody else's too."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy in one round of one scenario."""

    round: int
    requests: int
    bytes: int
    seconds: float
    p50_us: float
    p99_us: float
    p999_us: float = 0.0
    """0 = not measured."""
    errors: int
    cpu_us: float
    """CPU time of the whole process tree, user and system."""
    workers_cpu_us: float
    """The same without the process that was started, where it has children; else all of it."""
    system_share: float
    """Share of the CPU time spent in the kernel, 0 to 1."""
    peak_rss: int
    pss: int
    rest_rss: int = 0
    """Resident memory before the first request, bytes; as `peak_rss`."""
    foreign_share: float
    """Share of the proxy's cores that went to other processes meanwhile, 0 to 1."""

    def units(self, unit: Unit) -> float:
        return self.bytes / MIB if unit == "MiB" else float(self.requests)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy in one scenario: medians over the rounds."""

    peer: str
    cpu_us: float
    """Per request, or per MiB."""
    workers_cpu_us: float
    system_share: float
    spread: float
    """(largest − smallest) ÷ median of `cpu_us` over the rounds."""
    rate: float
    """Requests per second, or GB (10⁹ bytes) per second."""
    p50_ms: float
    p99_ms: float
    p999_ms: float = 0.0
    peak_rss: int
    """Largest over the rounds, bytes."""
    rest_rss: int
    errors: int
    """Sum over the rounds."""
    foreign_share: float
    ratios: dict[str, float]
    """CPU relative to each other peer: the median over the rounds of the ratio within the
    round, so that what disturbs a whole round cancels out."""
    rate_ratios: dict[str, float]
    """`rate` relative to each other peer, likewise."""
    intervals: dict[str, tuple[float, float]] = {}
    """Bounds of `ratios`: see `rounds.interval`."""


class Against(msgspec.Struct, frozen=True):
    """Which other lines one line of the table is compared with."""

    reference: str = REFERENCE
    base: str = ""
    """The same proxy in the first variant; empty when it is that itself, or the only one."""


_PLAIN = Against()
CPU_GROWTH = 0.05
"""CPU per request that workers may add where they have no core of their own, as a share."""


def cpu_per_unit(sample: Sample, unit: Unit) -> float:
    """CPU microseconds per request or MiB; infinite when nothing came through."""
    units = sample.units(unit)
    return sample.cpu_us / units if units else float("inf")


def ratios_of(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratios of values that were measured in the same round."""
    return [a / b if b else float("inf") for a, b in zip(mine, theirs, strict=True)]


def paired_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of these ratios."""
    return median(ratios_of(mine, theirs))


def summarize(samples: Mapping[str, Sequence[Sample]], unit: Unit) -> list[Row]:
    """Rows in the order of `samples`, which holds at least one sample for each peer and the
    same rounds for all of them."""
    costs = {
        peer: [cpu_per_unit(sample, unit) for sample in rounds] for peer, rounds in samples.items()
    }
    rates = {peer: [_rate(sample, unit) for sample in rounds] for peer, rounds in samples.items()}
    rows = []
    for peer, rounds in samples.items():
        middle = median(costs[peer])
        largest, smallest = max(costs[peer]), min(costs[peer])
        rows.append(
            Row(
                peer=peer,
                cpu_us=middle,
                workers_cpu_us=median(
                    sample.workers_cpu_us / (sample.units(unit) or float("nan"))
                    for sample in rounds
                ),
                system_share=median(sample.system_share for sample in rounds),
                spread=(largest - smallest) / middle if 0 < middle < float("inf") else 0.0,
                rate=median(rates[peer]),
                p50_ms=median(sample.p50_us for sample in rounds) / 1000,
                p99_ms=median(sample.p99_us for sample in rounds) / 1000,
                p999_ms=median(sample.p999_us for sample in rounds) / 1000,
                peak_rss=max(sample.peak_rss for sample in rounds),
                rest_rss=max(sample.rest_rss for sample in rounds),
                errors=sum(sample.errors for sample in rounds),
                foreign_share=median(sample.foreign_share for sample in rounds),
                ratios={
                    other: paired_ratio(costs[peer], costs[other])
                    for other in samples
                    if other != peer
                },
                intervals={
                    other: interval(ratios_of(costs[peer], costs[other]))
                    for other in samples
                    if other != peer
                },
                rate_ratios={
                    other: paired_ratio(rates[peer], rates[other])
                    for other in samples
                    if other != peer
                },
            )
        )
    return rows


def _rate(sample: Sample, unit: Unit) -> float:
    if unit == "MiB":
        return sample.bytes / sample.seconds / 1e9
    return sample.requests / sample.seconds


_HEADS: dict[Unit, tuple[str, str]] = {
    "request": ("µs/req", "req/s"),
    "message": ("µs/msg", "msg/s"),
    "MiB": ("µs/MiB", "GB/s"),
}


def table(
    title: str, unit: Unit, rows: Sequence[Row], against: Mapping[str, Against] | None = None
) -> str:
    """The rows as text, below a title, with remarks on what makes a line impaired. `against`:
    for labels that are not compared with `REFERENCE`, and nothing else."""
    against = against or {}
    per, rate = _HEADS[unit]
    varied = any(compared.base for compared in against.values())
    head = ["", f"CPU {per}", *(["CPU s/GB"] if unit == "MiB" else []), f"x {REFERENCE}"]
    head += ["CPU x own", "rate x own"] if varied else []
    head += ["kernel", "spread", rate, "p50 ms", "p99 ms"]
    rare = any(row.p999_ms for row in rows)
    head += [*(["p99.9 ms"] if rare else []), "RSS MB", "grown", "errors"]
    lines = [head]
    for row in rows:
        compared = against.get(row.peer, _PLAIN)
        line = [row.peer, f"{row.cpu_us:.1f}"]
        if unit == "MiB":
            line.append(f"{row.cpu_us / MIB * 1e3:.3f}")
        line.append(_ratio(row.ratios, row.peer, compared.reference))
        if varied:
            line.append(_ratio(row.ratios, row.peer, compared.base or row.peer))
            line.append(_ratio(row.rate_ratios, row.peer, compared.base or row.peer))
        line += [
            f"{row.system_share:.0%}",
            f"{row.spread:.0%}",
            f"{row.rate:.2f}" if unit == "MiB" else f"{row.rate:,.0f}",
            # Long downloads on a busy machine: none may have ended within a round.
            f"{row.p50_ms:.2f}" if row.p50_ms else "-",
            f"{row.p99_ms:.2f}" if row.p99_ms else "-",
            *([f"{row.p999_ms:.2f}"] if rare else []),
            f"{row.peak_rss / 1e6:.0f}",
            f"{(row.peak_rss - row.rest_rss) / 1e6:+.0f}" if row.rest_rss else "-",
            str(row.errors),
        ]
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [title]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  " + "  ".join(cells).rstrip())
    text.extend(
        _fairlead_remark(row, per, against) for row in rows if row.peer.startswith("fairlead")
    )
    text.extend(
        f"  note: other processes used {row.foreign_share:.0%} of the core of {row.peer}"
        for row in rows
        if row.foreign_share > NOISY
    )
    return "\n".join(text)


def _ratio(ratios: Mapping[str, float], mine: str, other: str) -> str:
    if mine == other:
        return "1.00"
    return f"{ratios[other]:.2f}" if other in ratios else "-"


def _fairlead_remark(row: Row, per: str, against: Mapping[str, Against]) -> str:
    """Beside the table: the ratio to every other proxy in the same variant."""
    _, separator, suffix = row.peer.partition(" ")
    same = {peer: ratio for peer, ratio in row.ratios.items() if peer.partition(" ")[2] == suffix}
    text = f"  {row.peer}: of it in workers {row.workers_cpu_us:.1f} {per}"
    if same:
        text += "; " + ", ".join(
            f"{ratio:.2f} ({low:.2f}-{high:.2f}) x {peer}"
            for peer, ratio in same.items()
            for low, high in [row.intervals[peer]]
        )
    base = against.get(row.peer, _PLAIN).base
    if separator and base in row.ratios:
        text += f"; {row.ratios[base] - 1:+.1%} CPU against {base}"
    return text


def scaling_remark(rows: Sequence[Row], workers: Mapping[str, int], cores: int) -> list[str]:
    """Whether more workers carry more: with a core for each, 1.8 times as much for two and so on
    in proportion; without, CPU per request grows by `CPU_GROWTH` at most. `cores`: what the
    proxy has. Processes that take turns on one core find its caches used by others, whoever they
    are, so the reference's growth stands beside ours."""
    remarks = []
    growth_of = {row.peer: row.ratios.get(row.peer.partition(" ")[0], 1.0) - 1 for row in rows}
    for row in rows:
        name = row.peer.partition(" ")[0]
        count = workers.get(row.peer, 1)
        if count == 1 or name not in row.ratios or not name.startswith("fairlead"):
            continue
        growth, carried = row.ratios[name] - 1, row.rate_ratios[name]
        if cores >= count:
            needed = 0.9 * count
            verdict = "as wanted" if carried >= needed else "too little"
            remarks.append(
                f"  {name}: {count} workers on {cores} cores carry {carried:.2f} times what one "
                f"does, wanted {needed:.1f}: {verdict}"
            )
        else:
            verdict = "as wanted" if growth <= CPU_GROWTH else "too much"
            reference = growth_of.get(f"{REFERENCE} {row.peer.partition(' ')[2]}")
            if reference is not None:
                verdict += f" ({REFERENCE}: {reference:+.1%})"
            remarks.append(
                f"  {name}: {count} workers on {cores} core{'s' * (cores > 1)}: CPU per request "
                f"{growth:+.1%}, wanted at most {CPU_GROWTH:+.0%}: {verdict}"
            )
    return remarks


def seconds_for(
    budget: float, *, measurements: int, starts: int, overhead: float, start_cost: float
) -> float:
    """How long each measurement may run so that all of them end within `budget` seconds:
    between 0.5 s, below which scheduling decides, and 5 s, above which nothing is gained."""
    left = budget - starts * start_cost - measurements * overhead
    return min(5.0, max(0.5, left / max(1, measurements)))


ALLOWANCE = 0.05
"""What a ratio may lie above the published one, as a share, before the claim is refuted: another
build of the peers, another day of the machine."""


def refuted(name: str, rows: Sequence[Row], published: Sequence[Row]) -> list[str]:
    """What was published of our own proxy and holds no longer: ratios to `REFERENCE` whose whole
    interval is above the published interval and `ALLOWANCE`. `name`: of the scenario."""
    claims = {row.peer: row for row in published}
    found = []
    for row in rows:
        suffix = row.peer.partition(" ")[2]
        other = f"{REFERENCE} {suffix}".strip()
        claim = claims.get(row.peer)
        if not row.peer.startswith("fairlead") or claim is None or other not in row.intervals:
            continue
        said = claim.intervals.get(other, (0.0, claim.ratios.get(other, float("inf"))))[1]
        low = row.intervals[other][0]
        if low > said * (1 + ALLOWANCE):
            found.append(
                f"{name}: {row.peer} takes {low:.2f} x {other} at least; published: {said:.2f}"
            )
    return found
