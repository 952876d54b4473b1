"""The picture for docs/balancers.md, by the real code on a simulated clock: `make simulate`.

Five questions: what a slow instance costs, how a new one is led in, how bursts pile up, what many
proxies cost that each count for themselves, and where requests go as a zone or tier loses
instances. Nothing is measured; the same seed draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from random import Random

from balancers.base import Balancer
from proxy import catalog
from proxy.control.slow_start import SlowStart, scaled
from proxy.engine.tiers import Place, shares

OUTPUT = Path(__file__).parent.parent / "docs" / "images" / "balancing.svg"
NAMES = ("round_robin", "random", "least_connections", "p2c", "peak_ewma")
COLOURS = ("#1971c2", "#868e96", "#2b8a3e", "#d9480f", "#9c36b5")
Lines = Mapping[str, Sequence[tuple[float, float]]]


class Instance:
    """A node of the simulation."""

    def __init__(self, name: str, needs: float, weight: int = 1) -> None:
        """`needs`: seconds for a request."""
        self.id = self.key = name
        self.needs, self.weight, self.usable, self.load = needs, weight, True, 0


def build(name: str, nodes: Sequence[Instance], rng: Random) -> Balancer:
    balancer: Balancer = catalog.load(catalog.BALANCERS, name)(nodes, rng)
    return balancer


def serve(
    name: str, needs: Sequence[float], rate: float, count: int, burst: int = 1
) -> tuple[list[float], int]:
    """Seconds that each of `count` requests takes, which come in bursts, `rate` a second in all;
    and the most that one instance had in flight. An instance with n at a time takes n/4 times as
    long for a new one beyond four: it has four cores."""
    rng = Random(1)
    nodes = [Instance(f"n{at}", one) for at, one in enumerate(needs)]
    balancer = build(name, nodes, rng)
    now, arrival, most = 0.0, 0.0, 0
    taken: list[float] = []
    ends: list[tuple[float, int, Instance, float]] = []
    while len(taken) < count:
        arrival += rng.expovariate(rate / burst)
        while ends and ends[0][0] <= arrival:
            now, _, node, began = heappop(ends)
            node.load -= 1
            balancer.load_changed(node)
            balancer.answered(node, now - began, now)
        for _ in range(burst):
            picked = balancer.pick(-1, ())
            assert isinstance(picked, Instance)
            picked.load += 1
            most = max(most, picked.load)
            balancer.load_changed(picked)
            seconds = picked.needs * rng.uniform(0.5, 1.5) * max(1.0, picked.load / 4)
            heappush(ends, (arrival + seconds, len(taken), picked, arrival))
            taken.append(seconds)
    return taken, most


def p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


def slow_instance(count: int) -> Lines:
    """How many times slower one of five is → milliseconds of the 99th percentile."""
    return {
        name: [
            (slow, 1000 * p99(serve(name, (0.02 * slow, *[0.02] * 4), 100.0, count)[0]))
            for slow in (1, 2, 4, 6, 8)
        ]
        for name in NAMES
    }


def bursts(count: int) -> Lines:
    """Requests that come at once → most in flight at one of ten instances."""
    return {
        name: [
            (burst, float(serve(name, [0.02] * 10, 500.0, count, burst)[1]))
            for burst in (1, 10, 20, 50, 100)
        ]
        for name in NAMES
    }


def fleet(count: int) -> Lines:
    """Proxies that share the same traffic, each by the requests that it has in flight itself →
    milliseconds of the 99th percentile, with one of ten instances four times slower."""
    needs = [0.08, *[0.02] * 9]
    numbers = (1, 2, 4, 8, 16, 32)
    return {
        name: [(n, 1000 * p99(serve_by_many(name, needs, 800.0, count, n))) for n in numbers]
        for name in ("least_connections", "p2c")
    }


def serve_by_many(
    name: str, needs: Sequence[float], rate: float, count: int, proxies: int
) -> list[float]:
    """Seconds that each of `count` requests takes, as in `serve`, where each comes to one of
    several proxies, which know only their own."""
    rng = Random(1)
    sights = [[Instance(f"n{at}", one) for at, one in enumerate(needs)] for _ in range(proxies)]
    balancers = [build(name, sight, rng) for sight in sights]
    load = dict.fromkeys((node.id for node in sights[0]), 0)
    arrival = 0.0
    taken: list[float] = []
    ends: list[tuple[float, int, int, Instance]] = []
    while len(taken) < count:
        arrival += rng.expovariate(rate)
        while ends and ends[0][0] <= arrival:
            _, _, at, node = heappop(ends)
            node.load -= 1
            load[node.id] -= 1
            balancers[at].load_changed(node)
        at = rng.randrange(proxies)
        picked = balancers[at].pick(-1, ())
        assert isinstance(picked, Instance)
        picked.load += 1
        load[picked.id] += 1
        balancers[at].load_changed(picked)
        seconds = picked.needs * rng.uniform(0.5, 1.5) * max(1.0, load[picked.id] / 4)
        heappush(ends, (arrival + seconds, len(taken), at, picked))
        taken.append(seconds)
    return taken


def new_instance(count: int) -> Lines:
    """Seconds since a fifth instance joined → its share, as a multiple of a fair one."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for label, window in (("slow_start: 0s", 0.001), ("slow_start: 30s", 30.0)):
        start = SlowStart()
        start.observe({"n4"}, ["n4"], 0.0)
        points = lines[label] = []
        for second in range(0, 41, 2):
            known = start.shares([f"n{at}" for at in range(5)], window, float(second))
            weights = [scaled(1, known.get(f"n{at}", 1.0)) for at in range(5)]
            nodes = [Instance(f"n{at}", 0.02, weight) for at, weight in enumerate(weights)]
            balancer = build("weighted_round_robin", nodes, Random(1))
            picks = [balancer.pick(-1, ()) for _ in range(count)]
            points.append((second, 5 * sum(node is nodes[4] for node in picks) / count))
    return lines


def zones(count: int) -> Lines:
    """Share of the instances that are ready → share of the requests that stay."""

    def stays(away: Place, ready: int) -> float:
        nodes = [((0, False), at < ready, 1) for at in range(count)]
        nodes += [(away, True, 1) for _ in range(count)]
        return shares(nodes, 0.5).get((0, False), 0.0)

    return {
        label: [(ready / count, stays(away, ready)) for ready in range(count + 1)]
        for label, away in (("zone, min_ready: 0.5", (0, True)), ("first tier", (1, False)))
    }


PANELS: tuple[tuple[str, str, Callable[[int], Lines], int], ...] = (
    ("One of five is slower: 99th percentile, ms", "times slower", slow_instance, 4000),
    ("Bursts: most in flight at one of ten", "requests at once", bursts, 4000),
    ("A new instance: its share, 1 = fair", "seconds since it joined", new_instance, 1000),
    ("Proxies that count by themselves: 99th percentile, ms", "proxies", fleet, 8000),
    ("Requests that stay in the zone or tier", "share of it that is ready", zones, 20),
)


def panel(title: str, below: str, lines: Lines, x: int, y: int) -> str:
    """One chart as SVG, with its corner there."""
    right = max(at for points in lines.values() for at, _ in points)
    top = max(value for points in lines.values() for _, value in points) * 1.05
    parts = [f'<text x="{x}" y="{y - 10}" font-weight="bold">{title}</text>']
    parts.append(f'<path d="M{x} {y}v200h340" fill="none" stroke="#868e96"/>')
    for value in (0.0, top / 2, top):
        height = y + 204 - 200 * value / top
        parts.append(f'<text x="{x - 6}" y="{height:.0f}" text-anchor="end">{value:.3g}</text>')
    for at in (0.0, right / 2, right):
        place = x + 340 * at / right
        parts.append(f'<text x="{place:.0f}" y="{y + 216}" text-anchor="middle">{at:.3g}</text>')
    parts.append(f'<text x="{x + 170}" y="{y + 234}" text-anchor="middle">{below}</text>')
    for number, (label, points) in enumerate(lines.items()):
        colour = COLOURS[number]
        places = " ".join(
            f"{x + 340 * at / right:.1f},{y + 200 - 200 * value / top:.1f}" for at, value in points
        )
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{x + 12}" y="{y + 14 + 15 * number}" fill="{colour}">{label}</text>'
        )
    return "\n".join(parts)


def picture(scale: float = 1.0) -> str:
    """All of them; `scale`: of the number of requests."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 890" font-size="12"'
        ' font-family="sans-serif" fill="#868e96">'
    ]
    for number, (title, below, draw, count) in enumerate(PANELS):
        lines = draw(max(20, int(count * scale)))
        parts.append(panel(title, below, lines, 50 + 410 * (number % 2), 40 + 290 * (number // 2)))
    return "\n".join((*parts, "</svg>\n"))


if __name__ == "__main__":
    OUTPUT.write_text(picture())
    print(OUTPUT)
