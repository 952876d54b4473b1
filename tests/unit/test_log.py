"""The log: one line per event, of ours and of libraries, in the configured form."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from threading import Thread

import pytest
import structlog

from proxy import log
from proxy.settings.process import LogSettings


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, sys.excepthook
    yield io.StringIO()
    sys.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_each_text_is_new_once_and_only_so_many_are() -> None:
    seen = log.Novelties(3, 4)
    assert [seen.take(text) for text in ("a", "b", "a", "longer", "long")] == [
        "a", "b", "", "long", ""
    ]  # fmt: skip
    assert seen.full
    assert seen.take("c") == ""


def test_json_lines_carry_event_level_time_and_what_is_bound(stream: io.StringIO) -> None:
    log.set_up(LogSettings(), stream=stream, worker=2)
    structlog.get_logger().info("ready", seconds=0.5)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["worker"], line["seconds"]) == (
        *("ready", "info", 2),
        0.5,
    )
    assert line["timestamp"].endswith("Z")


def test_lines_of_libraries_are_rendered_alike(stream: io.StringIO) -> None:
    log.set_up(LogSettings(), stream=stream, worker=2)
    logging.getLogger("aiohttp.server").error("broken %s", "pipe")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["worker"]) == (
        *("broken pipe", "aiohttp.server"),
        2,
    )


def test_a_failure_is_one_line_with_its_traceback(stream: io.StringIO) -> None:
    log.set_up(LogSettings(), stream=stream)
    try:
        raise KeyError("x")
    except KeyError:
        structlog.get_logger().exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "KeyError" in json.loads(stream.getvalue())["exception"]


def test_the_level_holds_for_loggers_made_before(stream: io.StringIO) -> None:
    early = structlog.get_logger()
    log.set_up(LogSettings(level="warning"), stream=stream)
    early.info("quiet")
    assert stream.getvalue() == ""
    early.warning("loud")
    assert json.loads(stream.getvalue())["event"] == "loud"


def test_console_lines_are_for_people(stream: io.StringIO) -> None:
    log.set_up(LogSettings(format="console"), stream=stream)
    structlog.get_logger().info("ready", workers=2)
    assert "ready" in stream.getvalue()
    assert "workers=2" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


class TakesNothing:
    """In place of the thread that writes."""

    def __init__(self, path: str) -> None:
        self.dropped = 0
        self.lines: list[bytes] = []

    def put(self, lines: memoryview, count: int) -> None:
        self.lines.append(bytes(lines))

    def close(self, patience: float) -> None: ...


@pytest.fixture
def file(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[TakesNothing]:
    """What the log of this process is written to."""
    taken = TakesNothing("")
    monkeypatch.setattr(log, "LineFile", lambda path: taken)
    log._standard_error.cache_clear()
    yield taken
    log._standard_error.cache_clear()


def test_the_next_line_says_how_many_were_lost(file: TakesNothing) -> None:
    log.set_up(LogSettings())
    for file.dropped in (0, 7, 7):
        structlog.get_logger().info("ready")
    file.dropped = 8
    logging.getLogger("aiohttp.server").error("broken pipe")
    told = [json.loads(line).get("log_lines_lost") for line in file.lines]
    assert told == [None, 7, None, 8]


class Collecting(str):
    """Garbage is collected while this is written, and has something to say."""

    __slots__ = ()

    def encode(self, *args: str, **named: str) -> bytes:
        logging.getLogger("asyncio").error("Task exception was never retrieved")
        return super().encode(*args, **named)


def test_a_writer_may_be_interrupted_by_another_line(file: TakesNothing) -> None:
    log.set_up(LogSettings())
    threaded = log._standard_error()
    assert threaded is not None
    writer = Thread(target=threaded.write, args=(Collecting("a line\n"),), daemon=True)
    writer.start()
    writer.join(5)
    assert not writer.is_alive()
    assert len(file.lines) == 2
    assert file.lines[1] == b"a line\n"


def test_without_standard_error_there_is_no_log(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    log._standard_error.cache_clear()
    try:
        log.set_up(LogSettings(format="console"))
        structlog.get_logger().warning("unheard")
        logging.getLogger("aiohttp.server").error("unheard")
    finally:
        log._standard_error.cache_clear()


def test_settings_travel_to_children_by_the_environment() -> None:
    settings = LogSettings(level="debug", format="console")
    assert log.from_environment(log.environment(settings)) == settings
    assert log.from_environment({}) == LogSettings()
    assert log.from_environment({log.LEVEL_VARIABLE: "loud"}) == LogSettings()
