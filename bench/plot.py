"""The picture for the README, from a result: `python -m bench plot [RESULT.json]`.

One group of bars for each scenario, a bar for each proxy: CPU per request (or message, or MiB)
relative to nginx, so that machines can be compared. Plain SVG, written here: nothing to install,
and a diff that can be read. It looks right on a light and on a dark page.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from bench.report import NOISY, REFERENCE
from bench.results import PUBLISHED, RESULTS

OUTPUT = Path(__file__).parent.parent / "docs" / "images" / "bench.svg"
NAMES = {
    "fairlead": "Fairlead", "fairlead-py": "Fairlead, not compiled",
    "nginx": "nginx", "haproxy": "HAProxy",
    "envoy": "Envoy", "traefik": "Traefik", "caddy": "Caddy",
}  # fmt: skip
COLOURS = {
    "fairlead": "#d9480f", "fairlead-py": "#ffa94d", "nginx": "#2b8a3e", "haproxy": "#1971c2",
    "envoy": "#9c36b5", "traefik": "#0c8599", "caddy": "#868e96",
}  # fmt: skip
OTHER = "#adb5bd"
LABELS = {
    "small_get": "small GET",
    "traced_get": "small GET, unique header",
    "post_16k": "POST 16 KiB, echoed",
    "download_1m": "download 1 MiB",
    "download_100m": "download 100 MiB",
    "connections_1000": "1,000 connections",
    "connections_10000": "10,000 connections",
    "new_connection": "new connection each",
    "access_log": "with access log",
    "websocket": "WebSocket message",
}
"""Scenarios in the picture, in this order; what a variant is compared in is its last line."""
SUFFIX = {"access_log": " +log"}
WIDTH = 860
LEFT = 190
RIGHT = 70
BAR = 11
GAP = 16
TOP = 62
CLIP = 8.0
"""Bars end here, with their figure; one peer that is ten times dearer shall not flatten the
others."""


@dataclass(frozen=True)
class Bar:
    """One proxy in one scenario."""

    peer: str
    ratio: float


@dataclass(frozen=True)
class Group:
    """One scenario."""

    title: str
    bars: tuple[Bar, ...]


def groups(result: Mapping[str, Any]) -> list[Group]:
    """What is drawn of a result: scenarios that nginx took part in."""
    by_name = {scenario["name"]: scenario for scenario in result["scenarios"]}
    found = []
    for name, title in LABELS.items():
        if name not in by_name:
            continue
        suffix = SUFFIX.get(name, "")
        reference = REFERENCE + suffix
        bars = []
        for row in by_name[name]["rows"]:
            peer, _, rest = row["peer"].partition(" ")
            if rest != suffix.strip():
                continue
            ratio = 1.0 if row["peer"] == reference else row["ratios"].get(reference)
            if ratio is not None:
                bars.append(Bar(peer, ratio))
        if bars:
            found.append(Group(title, tuple(bars)))
    return found


def caption(result: Mapping[str, Any]) -> str:
    """What was measured on what, in one line."""
    machine = result["machine"]
    versions = ", ".join(
        f"{NAMES.get(name, name)} {version}" for name, version in result["versions"].items()
    )
    rows = [row for scenario in result["scenarios"] for row in scenario["rows"]]
    busy = any(row.get("foreign_share", 0.0) > NOISY for row in rows)
    return (
        f"{versions}; {machine['cpu']}, {machine['cores']} cores; medians of "
        f"{result['rounds']} interleaved rounds{', on a BUSY machine' if busy else ''}"
    )


def svg(drawn: Sequence[Group], note: str) -> str:
    """The picture. ValueError when there is nothing to draw."""
    if not drawn:
        raise ValueError(f"nothing to draw: no scenario with {REFERENCE} in it")
    largest = max(min(bar.ratio, CLIP) for group in drawn for bar in group.bars)
    scale = (WIDTH - LEFT - RIGHT) / largest
    peers = list(dict.fromkeys(bar.peer for group in drawn for bar in group.bars))
    parts: list[str] = []
    x = LEFT
    for peer in peers:
        name = NAMES.get(peer, peer)
        parts.append(f'<rect x="{x}" y="36" width="10" height="10" fill="{_colour(peer)}"/>')
        parts.append(f'<text x="{x + 14}" y="45">{escape(name)}</text>')
        x += 34 + 7 * len(name)
    y = TOP
    for group in drawn:
        height = BAR * len(group.bars)
        middle = y + height / 2 + 4
        parts.append(
            f'<text x="{LEFT - 10}" y="{middle:.1f}" text-anchor="end">{escape(group.title)}</text>'
        )
        for bar in group.bars:
            width = min(bar.ratio, CLIP) * scale
            strong = ' font-weight="bold"' if bar.peer == "fairlead" else ""
            more = " ▸" if bar.ratio > CLIP else ""
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 1}" '
                f'fill="{_colour(bar.peer)}"/>'
            )
            parts.append(
                f'<text class="n" x="{LEFT + width + 4:.1f}" y="{y + BAR - 2.5:.1f}"{strong}>'
                f"{bar.ratio:.2f}{more}</text>"
            )
            y += BAR
        y += GAP
    bottom = y - GAP + 4
    line = LEFT + scale
    parts.append(f'<path class="l" d="M{line:.1f} {TOP - 6}V{bottom}"/>')
    height = bottom + 28
    style = (
        "text{font:12px system-ui,sans-serif;fill:#57606a}.n{font-size:10px}.t{font-size:14px;"
        "font-weight:bold}.l{stroke:#57606a;stroke-dasharray:3 3;fill:none}"
        "@media(prefers-color-scheme:dark){text{fill:#c9d1d9}.l{stroke:#c9d1d9}}"
    )
    title = f"CPU time of the proxy, relative to {REFERENCE} (less is better)"
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">\n'
        f"<style>{style}</style>\n"
        f'<text class="t" x="10" y="20">{escape(title)}</text>\n'
        f'{body}\n<text class="n" x="10" y="{height - 8}">{escape(note)}</text>\n</svg>\n'
    )


def _colour(peer: str) -> str:
    return COLOURS.get(peer, OTHER)


def newest(directory: Path = RESULTS) -> Path:
    """The latest result that is a comparison; the published one if it is the only one.
    ValueError when there is none."""
    names = sorted(
        directory.glob("*.json"), key=lambda path: (path.name != PUBLISHED.name, path.name)
    )
    for path in reversed(names):
        if groups(_read(path)):
            return path
    raise ValueError("no result of `make bench` is in bench/results")


def _read(path: Path) -> Mapping[str, Any]:
    result = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    # Other measurements keep their results in the same place, in a shape of their own.
    comparison = "versions" in result and isinstance(result.get("scenarios"), list)
    return result if comparison else {**result, "scenarios": []}


def main(arguments: Sequence[str]) -> int:
    """`python -m bench plot`."""
    parser = argparse.ArgumentParser(prog="python -m bench plot", description=__doc__)
    parser.add_argument("result", nargs="?", type=Path, help="default: the latest")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument(
        "--publish", action="store_true", help=f"keep the result as {PUBLISHED.name}, to commit it"
    )
    options = parser.parse_args(arguments)
    try:
        path = options.result or newest()
        result = _read(path)
        text = svg(groups(result), caption(result) if result["scenarios"] else "")
    except (OSError, ValueError, msgspec.DecodeError) as error:
        print(f"bench plot: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text)
    if options.publish and path != PUBLISHED:
        PUBLISHED.write_bytes(path.read_bytes())
    print(f"{os.path.relpath(options.output)} drawn from {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
