"""The table of drills in docs/registries.md: `python -m tests.e2e.drill_table` prints it."""

from __future__ import annotations

import sys

from proxy.catalog import PROVIDERS
from tests.e2e.drilled import ROWS, THREE, Drilled
from tests.e2e.every_registry import DRILLED

WITHOUT = {"static": "nothing is followed"}
"""Types of registry of which there is nothing to drill, and why."""


def kinds(type_: str) -> list[type[Drilled]]:
    return [kind for kind in DRILLED.values() if kind.type == type_]


def table() -> str:
    """A cell says on what a row is drilled, or has the number of the reason why it is not."""
    types = [type_ for type_ in PROVIDERS if type_ not in WITHOUT]
    reasons: list[str] = []
    lines = [
        f"| | {' | '.join(f'`{type_}`' for type_ in types)} |",
        f"|---|{'---|' * len(types)}",
    ]
    for row, words in ROWS.items():
        cells = [_cell(row, type_, reasons) for type_ in types]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{n}. {why}" for n, why in enumerate(reasons, 1)), ""])


def _cell(row: str, type_: str, reasons: list[str]) -> str:
    if row == "leader" and type_ in THREE:
        return "R"
    drilled = {"R" if kind.real else "S" for kind in kinds(type_) if row not in kind.lacks}
    if drilled:
        return " ".join(sorted(drilled))
    why = kinds(type_)[-1].lacks[row]
    if why not in reasons:
        reasons.append(why)
    return str(reasons.index(why) + 1)


if __name__ == "__main__":
    sys.stdout.write(table())
