"""From samples to the table: medians, ratios, text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import msgspec

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
    errors: int
    cpu_us: float
    """CPU time of the whole process tree, user and system."""
    workers_cpu_us: float
    """The same without the process that was started, where it has children; else all of it."""
    system_share: float
    """Share of the CPU time spent in the kernel, 0 to 1."""
    peak_rss: int
    pss: int
    foreign_share: float
    """Share of the proxy's cores that went to other processes meanwhile, 0 to 1."""

    def units(self, unit: Literal["request", "MiB"]) -> float:
        return self.bytes / (1024 * 1024) if unit == "MiB" else float(self.requests)


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
    peak_rss: int
    """Largest over the rounds, bytes."""
    errors: int
    """Sum over the rounds."""
    foreign_share: float
    ratios: dict[str, float]
    """CPU relative to each other peer: the median over the rounds of the ratio within the
    round, so that what disturbs a whole round cancels out."""


def cpu_per_unit(sample: Sample, unit: Literal["request", "MiB"]) -> float:
    """CPU microseconds per request or MiB; infinite when nothing came through."""
    units = sample.units(unit)
    return sample.cpu_us / units if units else float("inf")


def paired_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of values that were measured in the same round."""
    return median(a / b if b else float("inf") for a, b in zip(mine, theirs, strict=True))


def summarize(
    samples: Mapping[str, Sequence[Sample]], unit: Literal["request", "MiB"]
) -> list[Row]:
    """Rows in the order of `samples`, which holds at least one sample for each peer and the
    same rounds for all of them."""
    costs = {
        peer: [cpu_per_unit(sample, unit) for sample in rounds] for peer, rounds in samples.items()
    }
    rows = []
    for peer, rounds in samples.items():
        middle = median(costs[peer])
        largest, smallest = max(costs[peer]), min(costs[peer])
        if unit == "MiB":
            rate = median(sample.bytes / sample.seconds / 1e9 for sample in rounds)
        else:
            rate = median(sample.requests / sample.seconds for sample in rounds)
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
                rate=rate,
                p50_ms=median(sample.p50_us for sample in rounds) / 1000,
                p99_ms=median(sample.p99_us for sample in rounds) / 1000,
                peak_rss=max(sample.peak_rss for sample in rounds),
                errors=sum(sample.errors for sample in rounds),
                foreign_share=median(sample.foreign_share for sample in rounds),
                ratios={
                    other: paired_ratio(costs[peer], costs[other])
                    for other in samples
                    if other != peer
                },
            )
        )
    return rows


def table(title: str, unit: Literal["request", "MiB"], rows: Sequence[Row]) -> str:
    """The rows as text, below a title, with remarks on what makes a line doubtful."""
    per, rate = ("µs/MiB", "GB/s") if unit == "MiB" else ("µs/req", "req/s")
    head = ["", f"CPU {per}", f"x {REFERENCE}", "kernel", "spread", rate, "p50 ms", "p99 ms",
            "RSS MB", "errors"]  # fmt: skip
    known = {row.peer for row in rows}
    lines = [head]
    for row in rows:
        ratio = 1.0 if row.peer == REFERENCE else row.ratios.get(REFERENCE)
        lines.append(
            [
                row.peer,
                f"{row.cpu_us:.1f}",
                f"{ratio:.2f}" if ratio is not None else "-",
                f"{row.system_share:.0%}",
                f"{row.spread:.0%}",
                f"{row.rate:.2f}" if unit == "MiB" else f"{row.rate:,.0f}",
                # Long downloads on a busy machine: none may have ended within a round.
                f"{row.p50_ms:.2f}" if row.p50_ms else "-",
                f"{row.p99_ms:.2f}" if row.p99_ms else "-",
                f"{row.peak_rss / 1e6:.0f}",
                str(row.errors),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [title]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  " + "  ".join(cells).rstrip())
    if "fairlead" in known:
        text.extend(_fairlead_remark(row, per) for row in rows if row.peer == "fairlead")
    text.extend(
        f"  note: other processes used {row.foreign_share:.0%} of the core of {row.peer}"
        for row in rows
        if row.foreign_share > NOISY
    )
    return "\n".join(text)


def _fairlead_remark(row: Row, per: str) -> str:
    ratios = ", ".join(f"{ratio:.2f} x {peer}" for peer, ratio in row.ratios.items())
    workers = f"of it in workers {row.workers_cpu_us:.1f} {per}"
    return f"  fairlead: {workers}" + (f"; {ratios}" if ratios else "")


def seconds_for(
    budget: float, *, measurements: int, starts: int, overhead: float, start_cost: float
) -> float:
    """How long each measurement may run so that all of them end within `budget` seconds:
    between 0.5 s, below which scheduling decides, and 5 s, above which nothing is gained."""
    left = budget - starts * start_cost - measurements * overhead
    return min(5.0, max(0.5, left / max(1, measurements)))
