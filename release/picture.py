"""`make picture`: records the demo, and draws docs/images/demo.svg, in which that runs again.

What is typed stands in `SCRIPT`; what comes of it is what the programs of this checkout print, at
the times at which they do, but that longer waits are cut. Only ports are put back to those
that a reader has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

from proxy.embedded_etcd import free_port

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/demo.svg"

DEMO = "fairlead demo"
SCRIPT = (
    "curl http://127.0.0.1:8080/orders/hello | cut -c -44",
    "fairlead services | cut -c -44",
    "kill -9 {users-1}   # users-1",
    "for n in 1 2 3 4; do curl http://127.0.0.1:8080/svc/users/hello | cut -c -44; done",
    "fairlead instances users | awk -F '  +' '{{ print $1, $3, $NF }}'",
)
START_LIMIT = 60.0
"""Seconds for the demo to tell what to try."""
SILENCE = 0.7
"""Seconds at most between two things that happen in the picture."""
READING = 1.5
"""Seconds that one has for what a command printed, before the next is typed."""
TYPING = 0.035
"""Seconds for a character."""
STAYS = 6.0
"""Seconds for which the last of it stands before it begins anew."""


@dataclass(frozen=True)
class Line:
    """A line of the terminal: when it begins to appear, and for how long it is typed; seconds."""

    text: str
    at: float
    typed: float = 0.0


def main() -> int:
    PICTURE.write_text(drawn(timed(list(recorded()))), "utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size // 1024} KiB")
    return 0


def recorded() -> Iterator[tuple[str, float]]:
    """Each line, a command with `$ ` before it, with the seconds that it came after the last."""
    ports = {"8080": str(free_port()), "9900": str(free_port())}
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="fairlead-picture-"))
        bin_directory = Path(sys.executable).parent
        command = [*DEMO.split(), "--port", ports["8080"], "--admin-port", ports["9900"]]
        command[0] = str(bin_directory / "fairlead")
        demo = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert demo.stdout is not None
        stack.enter_context(demo.stdout)
        stack.callback(demo.wait, START_LIMIT)
        stack.callback(demo.terminate)
        yield f"$ {DEMO} &", 0.0
        pids = {}
        before = time.monotonic()
        for line in _lines(demo):
            now = time.monotonic()
            if killed := re.search(r"kill -9 (\d+) +\((\S+)\)", line):
                pids[killed[2]] = killed[1]
            if line.startswith(("starting", "Fairlead")):
                yield _translated(line, ports), now - before
                before = now
            if line.startswith("Ctrl-C"):
                break
        # Nobody reads its pipe from here on: it says a line or two more, which fit.
        for typed in SCRIPT:
            shown = typed.format_map(pids)
            yield f"$ {shown}", 0.0
            asked = shown.replace("curl ", "curl --silent ")
            for port, other in ports.items():
                asked = asked.replace(port, other)
            admin = f"--admin http://127.0.0.1:{ports['9900']}"
            asked = re.sub(r"fairlead (\w+)", rf"{bin_directory}/fairlead \1 {admin}", asked)
            start = time.monotonic()
            done = subprocess.run(
                asked, shell=True, capture_output=True, text=True, timeout=START_LIMIT
            )
            spent = time.monotonic() - start
            for line in (done.stdout + done.stderr).splitlines():
                yield _translated(line.rstrip(), ports), spent
                spent = 0.0


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a process prints, line by line. SystemExit when that takes too long, or it ends."""
    assert process.stdout is not None
    watch = Timer(START_LIMIT, process.kill)
    watch.start()
    try:
        for line in process.stdout:
            yield line.rstrip()
    finally:
        watch.cancel()
    sys.exit(f"{DEMO} ended, or was not ready within {START_LIMIT:g} s")


def _translated(line: str, ports: dict[str, str]) -> str:
    for port, other in ports.items():
        line = line.replace(other, port)
    return line


def timed(record: Sequence[tuple[str, float]]) -> list[Line]:
    """When each line of a record appears in the picture."""
    lines: list[Line] = []
    now = 0.5
    for text, after in record:
        if text.startswith("$ "):
            now += READING if lines else 0.0
            typed = TYPING * len(text)
            lines.append(Line(text, now, typed))
            now += typed + 0.2
        else:
            now += min(after, SILENCE)
            lines.append(Line(text, now))
    return lines


STYLE = """
rect { fill: #10151c }
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #c9d1d9; white-space: pre }
.typed { fill: #7ee787 }
"""


def drawn(lines: Sequence[Line]) -> str:
    """The picture as SVG: styles move it, so that it runs where scripts do not. Whoever wants
    no motion sees the end."""
    last = lines[-1]
    whole = last.at + last.typed + STAYS
    width = 24 + 7.9 * max(len(line.text) for line in lines)
    rules, texts = [], []
    for number, line in enumerate(lines):
        start, end = (100 * moment / whole for moment in (line.at, line.at + line.typed))
        if line.typed:
            hidden, steps = "clip-path: inset(0 100% 0 0)", f"steps({len(line.text)})"
            shown = "clip-path: inset(0 0 0 0)"
        else:
            hidden, steps, shown = "opacity: 0", "step-end", "opacity: 1"
        rules.append(
            f"@keyframes l{number} {{ 0%, {start:.2f}%"
            f" {{ {hidden}; animation-timing-function: {steps} }}"
            f" {max(end, start + 0.01):.2f}%, 100% {{ {shown} }} }}\n"
            f"#l{number} {{ animation: l{number} {whole:.1f}s infinite }}"
        )
        kind = ' class="typed"' if line.typed else ""
        texts.append(
            f'<text id="l{number}"{kind} x="12" y="{26 + 18 * number}">{escape(line.text)}</text>'
        )
    moving = "\n".join(rules)
    height = 24 + 18 * len(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img"'
        f' aria-label="A recorded run of the demo">\n<style>{STYLE}'
        f"@media (prefers-reduced-motion: no-preference) {{\n{moving}\n}}\n</style>\n"
        f'<rect width="100%" height="100%" rx="8"/>\n' + "\n".join(texts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    sys.exit(main())
