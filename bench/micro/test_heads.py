"""A request's head from bytes to the bytes for the instance."""

from __future__ import annotations

from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.load import request_bytes
from bench.scenarios import SCENARIOS
from proxy.engine.http1.heads import request_head
from proxy.engine.http1.parser import parse_request
from proxy.http.forwarding import ClientFacts

HEAD = request_bytes(SCENARIOS["small_get"], 80)
"""Twelve fields."""


@pytest.mark.parametrize("seen", ["before", "never"])
def test_parse_and_rewrite(benchmark: BenchmarkFixture, seen: str) -> None:
    """A block of fields that was seen before is remembered; most are."""
    facts = ClientFacts("10.0.0.1", 80, None, b"Via: 1.1 fairlead (0)\r\n")
    numbers = count()

    def parse_and_rewrite() -> bytes:
        head = HEAD
        if seen == "never":
            head = HEAD[:-2] + b"X-Number: %d\r\n\r\n" % next(numbers)
        request = parse_request(head, 100)
        return request_head(
            request, request.target, None, b"X-Request-ID: 0123456789abcdef-1\r\n", b"", facts
        )

    benchmark.group = "head of 12 fields, parsed and rewritten"
    benchmark(parse_and_rewrite)
