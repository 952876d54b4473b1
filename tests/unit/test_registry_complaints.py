"""Complaints about records in the log: once each, and not too many."""

from __future__ import annotations

from structlog.testing import capture_logs

from proxy.registry.complaints import LINES, PERIOD, Complaints
from proxy.statuses import InvalidRecord, OddRecord


def invalid(number: int) -> InvalidRecord:
    return InvalidRecord(key=f"/s/a/{number}", reason="no port", kept=False, service="a")


def test_a_refused_and_an_odd_record_are_a_warning_each() -> None:
    with capture_logs() as logs:
        odd = OddRecord(key="/s/a/9", reason="metadata 7 is ignored", service="a")
        Complaints().tell([invalid(1), odd], 0.0)
    assert logs == [
        {
            "event": "registry_record_refused",
            "log_level": "warning",
            "key": "/s/a/1",
            "reason": "no port",
            "kept": False,
        },
        {
            "event": "registry_record_odd",
            "log_level": "warning",
            "key": "/s/a/9",
            "reason": "metadata 7 is ignored",
        },
    ]


def test_thousands_of_bad_records_are_a_few_lines_for_each_period() -> None:
    complaints = Complaints()
    with capture_logs() as logs:
        complaints.tell([invalid(number) for number in range(1000)], 100.0)
        complaints.tell([invalid(number) for number in range(1000)], 100.0 + PERIOD - 0.1)
    assert len(logs) == LINES + 1
    assert (logs[-1]["event"], logs[-1]["number"]) == ("registry_records_not_logged", 1000 - LINES)
    with capture_logs() as logs:
        complaints.tell([invalid(1)], 100.0 + PERIOD)
    assert [line["key"] for line in logs] == ["/s/a/1"]


def test_a_period_begins_with_its_first_complaint() -> None:
    complaints = Complaints()
    with capture_logs() as logs:
        for second in range(100):
            complaints.tell([], float(second))
        complaints.tell([invalid(number) for number in range(LINES)], 100.0)
    assert len(logs) == LINES
