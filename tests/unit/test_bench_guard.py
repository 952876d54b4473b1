"""The guard against slower requests: what it stores, how it judges; and that its counts count."""

from __future__ import annotations

from pathlib import Path

import pytest

from balancers.base import hash_key
from bench import instructions
from bench.guard import Figure, better, findings, key, lines, load, merge, processor, save
from bench.inprocess import WORKLOADS, Cost, Report, count_bytecodes, plane_of, requests_of


def report(units: float, bytecodes: float = 1500.0, python: str = "3.11") -> Report:
    cost = Cost(us=10.0, unit_us=11.0, units=units, bytecodes=bytecodes)
    return Report(python=python, variant="python", costs={"get": cost})


class TestFigures:
    def test_the_lower_quartile_of_the_processes_counts(self) -> None:
        reports = [report(units) for units in (0.9, 0.2, 1.1, 0.8, 1.3, 2.0, 1.0, 1.2)]
        assert merge(reports) == {"get": Figure(0.9, 1500.0)}

    def test_processes_that_measured_something_else_are_not_mixed(self) -> None:
        with pytest.raises(ValueError, match="same thing"):
            merge([report(1.0), report(1.0, python="3.12")])

    def test_each_python_build_and_processor_has_its_own(self) -> None:
        assert key(report(1.0), "CPU 9") == "python 3.11 on CPU 9"

    def test_the_processor_is_what_the_kernel_calls_it(self, tmp_path: Path) -> None:
        file = tmp_path / "cpuinfo"
        file.write_text("processor : 0\nmodel\t: 143\nmodel name\t: Some CPU\nmodel : 7\n")
        assert processor(file) == "Some CPU 143"
        assert processor(tmp_path / "missing") == "unknown"

    def test_figures_are_stored_and_read(self, tmp_path: Path) -> None:
        path = tmp_path / "guard.json"
        assert load(path) == {}
        store = {"python 3.12": {"get": Figure(1.0, 2.0)}, "python 3.11": {}}
        save(store, path)
        assert load(path) == store
        assert path.read_text().index("3.11") < path.read_text().index("3.12")

    def test_of_two_measurements_the_smaller_counts(self) -> None:
        both = better({"get": Figure(1.0, 5.0)}, {"get": Figure(0.9, 6.0)})
        assert both == {"get": Figure(0.9, 5.0)}


class TestVerdict:
    STORED = {"get": Figure(1.0, 1500.0)}  # noqa: RUF012

    def test_a_tenth_is_let_pass(self) -> None:
        assert findings(self.STORED, {"get": Figure(1.1, 1650.0)}) == []

    def test_more_time_is_found(self) -> None:
        (found,) = findings(self.STORED, {"get": Figure(1.11, 1500.0)})
        assert found == "get: a request costs 1.11 units of work, stored is 1, +11%"

    def test_more_bytecodes_are_found(self) -> None:
        (found,) = findings(self.STORED, {"get": Figure(0.9, 1651.0)})
        assert found == "get: a request costs 1651 bytecodes, stored is 1500, +10%"

    def test_a_few_bytecodes_beside_compiled_modules_are_not(self) -> None:
        assert findings({"get": Figure(1.0, 0.0)}, {"get": Figure(1.0, 20.0)}) == []
        assert findings({"get": Figure(1.0, 0.0)}, {"get": Figure(1.0, 21.0)})

    def test_a_new_workload_is_not_judged(self) -> None:
        assert findings({}, {"get": Figure(9.0, 9.0)}) == []

    def test_the_table_has_a_line_for_each(self) -> None:
        _, line = lines(self.STORED, {"get": Figure(1.05, 1400.0)})
        assert line.split() == ["get", "1.050", "1.000", "+5.0%", "1400.0", "1500.0"]
        _, line = lines({}, {"get": Figure(1.05, 1400.0)})
        assert line.split() == ["get", "1.050", "-", "1400.0", "-"]


class TestCounting:
    def test_only_our_own_code_counts(self) -> None:
        assert count_bytecodes(lambda: sorted(range(1000), key=lambda n: -n)) == 0

    def test_the_count_is_the_same_each_time(self) -> None:
        def work() -> None:
            hash_key(b"/a%20b")

        first = count_bytecodes(work)
        assert first > 0
        assert [count_bytecodes(work) for _ in range(3)] == [first] * 3

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_every_workload_goes_through(self, name: str) -> None:
        workload = WORKLOADS[name]
        blocks = requests_of(workload)
        plane = plane_of(workload)
        try:
            plane.prepare(next(blocks), workload.answer)
            plane.check(next(blocks), workload.answer)
        finally:
            plane.close()


class TestInstructions:
    def test_three_per_cent_more_than_before_the_series_is_too_dear(self) -> None:
        stored = {"get": 1000.0, "post": 1000.0}
        assert instructions.findings(stored, {"get": 1030.0, "post": 500.0, "new": 9.0}) == []
        assert instructions.findings({}, {"get": 1000.0, "observed": 1030.0}) == []
        assert instructions.findings({}, {"get": 1000.0, "observed": 1031.0}) == [
            "observed: a request costs 1031 instructions, +3.1% to get"
        ]
        whole = {"get": 1000.0, "noted": 10.0}
        assert instructions.findings({}, {**whole, "reported": 1029.0}) == []
        assert instructions.findings({}, {**whole, "reported": 1030.0}) == [
            "reported: a request costs 1030 instructions, +4.0% to get"
        ]
        assert instructions.findings(stored, {"get": 1031.0, "post": 1000.0}) == [
            "get: a request costs 1031 instructions, +3.1% to before"
        ]
