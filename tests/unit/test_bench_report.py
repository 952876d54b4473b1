"""The pure parts of the benchmark: reading the load's output, medians, ratios, the table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.load import LoadError, parse_summary, percentile, request_bytes, wrk_script
from bench.peers import Command, Setup
from bench.processes import core_plan
from bench.report import Sample, paired_ratio, seconds_for, summarize, table
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

    @pytest.mark.parametrize("name", SCENARIOS)
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
            ["fairlead", "30.0", "1.50", "50%", "0%", "1,000", "1.00", "5.00", "20", "0"]
        )
        assert nginx.split()[:3] == ["nginx", "20.0", "1.00"]
        assert envoy.split()[:3] == ["envoy", "60.0", "3.00"]
        assert remark.strip() == (
            "fairlead: of it in workers 29.0 µs/req; 1.50 x nginx, 0.50 x envoy"
        )

    def test_without_the_reference_there_is_no_ratio(self) -> None:
        text = table("t", "request", summarize({"haproxy": [sample(20_000.0)]}, "request"))
        assert text.splitlines()[2].split()[:3] == ["haproxy", "20.0", "-"]

    def test_a_busy_core_is_remarked(self) -> None:
        rows = summarize({"nginx": [sample(20_000.0, foreign_share=0.4)]}, "request")
        assert "other processes used 40% of the core of nginx" in table("t", "request", rows)

    def test_a_latency_nobody_measured_is_not_zero(self) -> None:
        rows = summarize({"nginx": [sample(20_000.0, p50_us=0.0, p99_us=0.0)]}, "MiB")
        assert table("t", "MiB", rows).splitlines()[2].split()[6:8] == ["-", "-"]

    def test_of_nobody(self) -> None:
        assert table("t", "request", []).splitlines()[0] == "t"


def plan(available: set[int], workers: int) -> tuple[list[int], list[int]]:
    proxy, load = core_plan(frozenset(available), workers)
    return sorted(proxy), sorted(load)


class TestPlans:
    def test_proxy_and_load_share_no_core(self) -> None:
        assert plan({0, 1}, 1) == ([0], [1])
        assert plan({0, 1}, 2) == ([0], [1])
        assert plan({0, 1, 2, 3}, 2) == ([0, 1], [2, 3])
        assert plan({4, 6, 9}, 4) == ([4, 6], [9])

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
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected NAME=PROGRAM"):
            Command(text)
