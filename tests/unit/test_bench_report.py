"""The pure parts of the benchmark: reading the load's output, medians, ratios, the table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest

from bench.load import LoadError, OpenLoad, parse_summary, percentile, request_bytes, wrk_script
from bench.peers import Command, Setup
from bench.processes import core_plan
from bench.report import (
    Against,
    Sample,
    paired_ratio,
    scaling_remark,
    seconds_for,
    summarize,
    table,
)
from bench.scenarios import SCENARIOS

WRK_OUTPUT = """\
Running 60m test @ http://127.0.0.1:20001/small
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.61ms    2.05ms  27.63ms   86.53%
    Req/Sec    18.53k     1.32k   20.71k    70.00%
  18443 requests in 1.00s, 4.96MB read
Requests/sec:  18401.23
Transfer/sec:      4.95MB
BENCH {"requests":18443,"bytes":5201000,"seconds":1.002273,"p50_us":3214.0,"p99_us":10021.0,"errors":2}
"""  # noqa: E501


def sample(cpu_us: float, *, requests: int = 1000, **changes: float | int) -> Sample:
    values: dict[str, float | int] = {
        "round": 0,
        "requests": requests,
        "bytes": requests * 1024,
        "seconds": 1.0,
        "p50_us": 1000.0,
        "p99_us": 5000.0,
        "errors": 0,
        "cpu_us": cpu_us,
        "workers_cpu_us": cpu_us,
        "system_share": 0.5,
        "peak_rss": 20_000_000,
        "pss": 10_000_000,
        "rest_rss": 15_000_000,
        "foreign_share": 0.0,
    }
    return Sample(**(values | changes))  # type: ignore[arg-type]


class TestParseSummary:
    def test_finds_the_line_among_wrks_own_output(self) -> None:
        summary = parse_summary(WRK_OUTPUT)
        assert summary.requests == 18443
        assert summary.bytes == 5_201_000
        assert summary.seconds == pytest.approx(1.002273)
        assert (summary.p50_us, summary.p99_us, summary.errors) == (3214.0, 10021.0, 2)

    def test_without_the_line_it_shows_what_was_printed(self) -> None:
        with pytest.raises(LoadError, match="unable to connect"):
            parse_summary("unable to connect to 127.0.0.1:20001 Connection refused\n")

    def test_of_nothing(self) -> None:
        with pytest.raises(LoadError, match="no output"):
            parse_summary("")

    def test_a_line_that_lacks_a_figure_is_an_error(self) -> None:
        with pytest.raises(LoadError, match="unreadable"):
            parse_summary('BENCH {"requests":1}\n')


class TestRequests:
    def test_the_reference_request_has_twelve_fields(self) -> None:
        head, _, body = request_bytes(SCENARIOS["small_get"], 8080).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"GET /small HTTP/1.1"
        assert len(lines) - 1 == 12
        assert body == b""

    @pytest.mark.parametrize("name", [s.name for s in SCENARIOS.values() if not s.websocket])
    def test_wrk_sends_the_same_fields(self, name: str) -> None:
        scenario = SCENARIOS[name]
        script = wrk_script(scenario)
        for field, value in scenario.headers:
            assert f'wrk.headers["{field}"] = "{value}"' in script
        assert script.count("wrk.headers[") == len(scenario.headers) + scenario.traced
        assert f'wrk.method = "{scenario.method}"' in script
        assert ("wrk.body" in script) == bool(scenario.body)

    def test_traced_requests_all_differ_in_one_field_of_fixed_length(self) -> None:
        scenario = SCENARIOS["traced_get"]
        first, second = (request_bytes(scenario, 8080, trace) for trace in (1, 2))
        assert first != second
        assert len(first) == len(second)
        assert b"\r\nTraceparent: 00-" + b"0" * 31 + b"1-" in first

    def test_a_body_has_its_length(self) -> None:
        wire = request_bytes(SCENARIOS["post_16k"], 8080)
        assert b"\r\nContent-Length: 16384\r\n" in wire
        assert wire.endswith(b"\r\n\r\n" + b"x" * 16384)


class TestMedians:
    def test_percentile(self) -> None:
        values = [float(value) for value in range(100)]
        assert percentile(values, 0.5) == 50.0
        assert percentile(values, 0.99) == 99.0
        assert percentile([7.0], 0.99) == 7.0
        assert percentile([], 0.5) == 0.0

    def test_a_ratio_is_taken_within_the_round(self) -> None:
        # The second round ran on a machine twice as slow: medians of each alone would move.
        assert paired_ratio([30.0, 60.0, 33.0], [20.0, 40.0, 22.0]) == pytest.approx(1.5)

    def test_cpu_is_divided_by_requests(self) -> None:
        rows = summarize(
            {
                "nginx": [sample(20_000.0), sample(22_000.0), sample(40_000.0)],
                "fairlead": [sample(30_000.0), sample(33_000.0), sample(60_000.0)],
            },
            "request",
        )
        nginx, fairlead = rows
        assert nginx.cpu_us == pytest.approx(22.0)
        assert fairlead.cpu_us == pytest.approx(33.0)
        assert fairlead.ratios == pytest.approx({"nginx": 1.5})
        assert nginx.spread == pytest.approx(20 / 22)
        assert nginx.rate == pytest.approx(1000.0)
        assert (nginx.p50_ms, nginx.p99_ms) == (1.0, 5.0)

    def test_downloads_are_divided_by_mib_and_rated_in_gb(self) -> None:
        mib = 1024 * 1024
        (row,) = summarize(
            {"nginx": [sample(1_000_000.0, requests=7, bytes=1000 * mib, seconds=2.0)]}, "MiB"
        )
        assert row.cpu_us == pytest.approx(1000.0)
        assert row.rate == pytest.approx(1000 * mib / 2e9)

    def test_errors_add_up_and_memory_is_the_largest(self) -> None:
        (row,) = summarize(
            {"nginx": [sample(1.0, errors=1, peak_rss=5), sample(1.0, errors=2, peak_rss=3)]},
            "request",
        )
        assert row.errors == 3
        assert row.peak_rss == 5

    def test_no_answer_at_all_is_infinitely_dear(self) -> None:
        (row,) = summarize({"nginx": [sample(10.0, requests=0)]}, "request")
        assert math.isinf(row.cpu_us)


class TestTable:
    def test_columns_and_ratio(self) -> None:
        rows = summarize(
            {
                "fairlead": [sample(30_000.0, workers_cpu_us=29_000.0)],
                "nginx": [sample(20_000.0)],
                "envoy": [sample(60_000.0)],
            },
            "request",
        )
        title, head, fairlead, nginx, envoy, remark = table("small", "request", rows).splitlines()
        assert title == "small"
        assert head.split()[:5] == ["CPU", "µs/req", "x", "nginx", "kernel"]
        assert fairlead.split() == (
            ["fairlead", "30.0", "1.50", "50%", "0%", "1,000", "1.00", "5.00", "20", "+5", "0"]
        )
        assert nginx.split()[:3] == ["nginx", "20.0", "1.00"]
        assert envoy.split()[:3] == ["envoy", "60.0", "3.00"]
        assert remark.strip() == (
            "fairlead: of it in workers 29.0 µs/req; 1.50 (1.50-1.50) x nginx,"
            " 0.50 (0.50-0.50) x envoy"
        )

    def test_without_the_reference_there_is_no_ratio(self) -> None:
        text = table("t", "request", summarize({"haproxy": [sample(20_000.0)]}, "request"))
        assert text.splitlines()[2].split()[:3] == ["haproxy", "20.0", "-"]

    def test_a_busy_core_is_remarked(self) -> None:
        rows = summarize({"nginx": [sample(20_000.0, foreign_share=0.4)]}, "request")
        assert "other processes used 40% of the core of nginx" in table("t", "request", rows)

    def test_a_latency_nobody_measured_is_not_zero(self) -> None:
        rows = summarize({"nginx": [sample(20_000.0, p50_us=0.0, p99_us=0.0)]}, "MiB")
        assert table("t", "MiB", rows).splitlines()[2].split()[7:9] == ["-", "-"]

    def test_a_download_has_its_cost_per_gigabyte(self) -> None:
        rows = summarize({"nginx": [sample(1_048_576.0, bytes=1000 * 1024 * 1024)]}, "MiB")
        _, head, line = table("t", "MiB", rows).splitlines()
        assert head.split()[:5] == ["CPU", "µs/MiB", "CPU", "s/GB", "x"]
        assert line.split()[:3] == ["nginx", "1048.6", "1.000"]

    def test_a_variant_is_compared_with_itself_and_with_the_reference_in_that_variant(self) -> None:
        rows = summarize(
            {
                "fairlead": [sample(30_000.0)],
                "fairlead +log": [sample(33_000.0, requests=1000, seconds=1.25)],
                "nginx": [sample(20_000.0)],
                "nginx +log": [sample(22_000.0)],
            },
            "request",
        )
        against = {
            "fairlead": Against("nginx"),
            "fairlead +log": Against("nginx +log", "fairlead"),
            "nginx": Against("nginx"),
            "nginx +log": Against("nginx +log", "nginx"),
        }
        text = table("t", "request", rows, against).splitlines()
        assert text[1].split()[2:10] == (["x", "nginx", "CPU", "x", "own", "rate", "x", "own"])
        assert text[2].split()[:5] == ["fairlead", "30.0", "1.50", "1.00", "1.00"]
        assert text[3].split()[:6] == ["fairlead", "+log", "33.0", "1.50", "1.10", "0.80"]
        assert text[5].split()[:6] == ["nginx", "+log", "22.0", "1.00", "1.10", "1.00"]
        assert text[7].strip() == (
            "fairlead +log: of it in workers 33.0 µs/req; 1.50 (1.50-1.50) x nginx +log; "
            "+10.0% CPU against fairlead"
        )

    def test_of_nobody(self) -> None:
        assert table("t", "request", []).splitlines()[0] == "t"


class TestScaling:
    WORKERS: ClassVar = {"fairlead": 1, "fairlead x2": 2, "nginx": 1, "nginx x2": 2}

    def remarks(self, cores: int, *, cpu_us: float, requests: int, **others: Sample) -> list[str]:
        rows = summarize(
            {
                "fairlead": [sample(30_000.0)],
                "fairlead x2": [sample(cpu_us, requests=requests)],
                "nginx": [sample(20_000.0)],
                **{name.replace("_", " "): [one] for name, one in others.items()},
            },
            "request",
        )
        return scaling_remark(rows, self.WORKERS, cores)

    def test_with_a_core_for_each_they_must_carry_more(self) -> None:
        (enough,) = self.remarks(2, cpu_us=60_000.0, requests=1900)
        assert enough.strip() == (
            "fairlead: 2 workers on 2 cores carry 1.90 times what one does, wanted 1.8: as wanted"
        )
        (short,) = self.remarks(2, cpu_us=60_000.0, requests=1700)
        assert short.endswith("too little")

    def test_on_one_core_they_must_not_cost_more(self) -> None:
        (fine,) = self.remarks(1, cpu_us=31_200.0, requests=1000)
        assert fine.strip() == (
            "fairlead: 2 workers on 1 core: CPU per request +4.0%, wanted at most +5%: as wanted"
        )
        (dear,) = self.remarks(1, cpu_us=32_000.0, requests=1000)
        assert dear.endswith("too much")

    def test_the_reference_stands_beside_it(self) -> None:
        (remark,) = self.remarks(1, cpu_us=33_000.0, requests=1000, nginx_x2=sample(21_600.0))
        assert remark.strip() == (
            "fairlead: 2 workers on 1 core: CPU per request +10.0%, wanted at most +5%: "
            "too much (nginx: +8.0%)"
        )


def plan(available: set[int], workers: int) -> tuple[list[int], list[int]]:
    proxy, load = core_plan(frozenset(available), workers)
    return sorted(proxy), sorted(load)


class TestPlans:
    def test_proxy_and_load_share_no_core(self) -> None:
        assert plan({0, 1}, 1) == ([0], [1])
        assert plan({0, 1}, 2) == ([0], [1])
        assert plan({0, 1, 2, 3}, 2) == ([0, 1], [2, 3])
        assert plan({4, 6, 9}, 4) == ([4], [6, 9])
        assert plan(set(range(8)), 4) == ([0, 1, 2, 3], [4, 5, 6, 7])

    def test_one_core_is_shared(self) -> None:
        assert plan({0}, 2) == ([0], [0])

    def test_measurements_fit_the_budget(self) -> None:
        seconds = seconds_for(200.0, measurements=100, starts=40, overhead=0.1, start_cost=1.0)
        assert seconds == pytest.approx(1.5)

    def test_measurements_are_neither_too_short_nor_too_long(self) -> None:
        assert seconds_for(1.0, measurements=100, starts=40, overhead=0.1, start_cost=1.0) == 0.5
        assert seconds_for(900.0, measurements=3, starts=1, overhead=0.1, start_cost=1.0) == 5.0


class TestCommand:
    def test_placeholders_are_replaced(self, tmp_path: Path) -> None:
        peer = Command("mine=sh -c 'serve {port} {backend} --workers={workers}'")
        setup = Setup(
            directory=tmp_path,
            port=1,
            admin_port=2,
            backend_port=3,
            workers=4,
            open_files=5,
        )
        assert peer.name == "mine"
        assert peer.command(setup) == ["-c", "serve 1 3 --workers=4"]

    @pytest.mark.parametrize("text", ["no-equals", "=program", "name=", "a b=program"])
    def test_a_command_of_another_form_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected NAME=PROGRAM"):
            Command(text)


def test_requests_that_nobody_was_free_for_count_with_their_wait() -> None:
    load = OpenLoad(SCENARIOS["half_load"], 1, 10.0)
    assert load.due(5.0) == 0
    load.started = 100.0
    assert load.due(100.55) == 5
    assert load.owed(100.55) == pytest.approx([0.45, 0.35, 0.25, 0.15, 0.05])
    load.sent = 4
    assert load.owed(100.55) == pytest.approx([0.05])
