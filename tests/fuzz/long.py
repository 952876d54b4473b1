"""The targets under atheris (https://github.com/google/atheris), guided by coverage:

    python -m tests.fuzz.long TARGET -max_total_time=600 -max_len=2048 -timeout=20 CORPUS_DIRECTORY

TARGET is `exchanges` (a worker between a client and instances of HTTP/1.1), `frames` or `blocks`
(the codec of HTTP/2). Options are libFuzzer's. The corpus directory must exist; an empty one is
given the seeds. atheris is not among the project's dependencies: `pip install atheris`, next to
them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
import structlog

with atheris.instrument_imports(include=["proxy.engine", "proxy.errors", "proxy.http2"]):
    from tests.fuzz import http2, target

TARGETS = {
    "exchanges": (target.play, target.SEEDS),
    "frames": (http2.converse, http2.CONVERSATIONS),
    "blocks": (http2.compare, http2.BLOCKS),
}


def main(arguments: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    play, seeds = TARGETS[arguments.pop(1)]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for directory in arguments[1:]:
        if not directory.startswith("-") and not any(Path(directory).iterdir()):
            for number, seed in enumerate(seeds):
                (Path(directory) / f"seed-{number}").write_bytes(seed)
    atheris.Setup(arguments, play)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
