"""`fairlead top`: services, and the instances of one, as a table that follows what happens.

What is shown is decided by pure functions; `run` asks, draws and reads keys.
"""

from __future__ import annotations

import curses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy import listings

Row = dict[str, Any]

KEYS = "q quits  ↑↓ select  Enter instances  Esc back  s sorts by the next column  r reverses"

COLUMNS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.get("name", row.get("id", "")),
    "rate": lambda row: row["rate"],
    "errors": lambda row: row["error_rate"],
    "p50": lambda row: row["latency"]["p50"] or 0.0,
    "p99": lambda row: row["latency"]["p99"] or 0.0,
    "in flight": lambda row: row.get("inflight") or 0,
    "state": lambda row: row["total"] - row["ready"] if "total" in row else row["status"],
}
"""Columns that rows are sorted by: name → the part of a row that counts."""


@dataclass(slots=True)
class View:
    """Owns what is looked at."""

    service: str | None = None
    """The one with the instances that are shown; None = the services are."""
    sort: str = "name"
    reverse: bool = False
    selected: int = 0

    def key(self, key: int, rows: list[Row]) -> bool:
        """A key was pressed. False: that was enough."""
        match key:
            case 113:  # q
                return False
            case curses.KEY_UP:
                self.selected -= 1
            case curses.KEY_DOWN:
                self.selected += 1
            case 10 | 13 | curses.KEY_ENTER if self.service is None and rows:
                self.service, self.selected = rows[self.selected]["name"], 0
            case 27 | 127 | curses.KEY_BACKSPACE:
                self.service, self.selected = None, 0
            case 115:  # s
                names = list(COLUMNS)
                self.sort = names[(names.index(self.sort) + 1) % len(names)]
            case 114:  # r
                self.reverse = not self.reverse
        self.selected = max(0, min(self.selected, len(rows) - 1))
        return True

    def rows(self, document: dict[str, Any]) -> list[Row]:
        """The rows of a document in the order that is wanted: the largest number first."""
        rows = document["services" if self.service is None else "instances"]
        down = self.reverse is (self.sort == "name")
        return sorted(rows, key=COLUMNS[self.sort], reverse=down)

    def lines(self, document: dict[str, Any], now: float, height: int) -> list[tuple[str, bool]]:
        """Lines of the screen, and whether each is the selected one."""
        rows = self.rows(document)
        show = listings.services if self.service is None else listings.instances
        kind = "services" if self.service is None else "instances"
        head, *table = list(show({**document, kind: rows}))[: len(rows) + 1]
        self.selected = max(0, min(self.selected, len(rows) - 1))
        room = max(1, height - 4)
        first = max(0, min(self.selected - room // 2, len(rows) - room))
        what = "services" if self.service is None else listings.printable(self.service)
        clock = time.strftime("%H:%M:%S", time.localtime(now))
        order = f"by {self.sort}{', reversed' if self.reverse else ''}"
        title = f"fairlead  {what}  {len(rows)} rows {order}  {clock}"
        lines = [(title, False), (head, False)]
        for place, line in enumerate(table[first : first + room], first):
            lines.append((line, place == self.selected and bool(rows)))
        return [*lines, ("", False), (KEYS, False)]


def run(ask: Callable[[str | None], dict[str, Any]], interval: float) -> None:
    """Until `q`. `ask`: the document of the services, or of one; raises ValueError with a line for
    people when there is none for now."""
    curses.wrapper(lambda screen: _loop(screen, ask, interval))


def _loop(
    screen: curses.window, ask: Callable[[str | None], dict[str, Any]], interval: float
) -> None:
    curses.curs_set(0)
    curses.set_escdelay(25)  # Milliseconds: nobody types the rest of a sequence slower.
    view, trouble, due = View(), "", 0.0
    document: dict[str, Any] = {"services": []}
    while True:
        now = time.monotonic()
        if now >= due:
            try:
                document, trouble = ask(view.service), ""
            except ValueError as error:
                trouble = str(error)
            due = time.monotonic() + interval
        height, width = screen.getmaxyx()
        screen.erase()
        shown = view.lines(document, time.time(), height)
        if trouble:
            shown[-2] = trouble, False
        for place, (line, selected) in enumerate(shown[:height]):
            screen.addnstr(place, 0, line, width - 1, curses.A_REVERSE if selected else 0)
        screen.refresh()
        screen.timeout(max(1, int((due - time.monotonic()) * 1000)))
        key = screen.getch()
        if key == -1:
            continue
        before = view.service
        if not view.key(key, view.rows(document)):
            return
        if view.service != before:
            document, due = {"services": [], "instances": []}, 0.0
