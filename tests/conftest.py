"""What every test may rely on: how thorough hypothesis is.

`make quick` takes a glance at each law, the suite looks; `FAIRLEAD_HYPOTHESIS=deep` is for the
night.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

CONTRACTS = (f"proxy.testing.{module}" for module in ("balancers", "checks", "providers"))
pytest.register_assert_rewrite("tests.support.wire", *CONTRACTS)

settings.register_profile(
    "quick",
    max_examples=40,
    deadline=None,  # Two busy cores make any limit on one example a coin toss.
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("glance", settings.get_profile("quick"), max_examples=10)
settings.register_profile(
    "deep",
    max_examples=3000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("FAIRLEAD_HYPOTHESIS", "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with drills first, then the other ones that start processes: several processes take a
    file each, in this order, and one that began a long file last would be waited for."""
    drills = {item.path for item in items if item.get_closest_marker("drill")}
    in_processes = {item.path for item in items if "e2e" in item.path.parts}
    items.sort(key=lambda item: (item.path not in in_processes, item.path not in drills))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was left out for what is not on this machine, a line for each reason, and what
    tests measured and do not judge (`record_property("drill", line)`)."""
    skipped = Counter(str(report.longrepr[-1]) for report in terminalreporter.getreports("skipped"))
    for reason, number in sorted(skipped.items()):
        terminalreporter.write_line(f"{number} {reason[0].lower()}{reason[1:]}")
    lines = [
        str(value)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == "drill"
    ]
    if lines:
        title = "measured; answer times beside hostile peers, ms: median, 95 of 100, worst"
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
