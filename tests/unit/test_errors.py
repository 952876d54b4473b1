"""The table of faults: what it promises, what must hold of each, and the page made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy import errors
from proxy.errors import FAULTS, Fault, Side

ROOT = Path(__file__).parents[2]

PROMISED = {
    "destination_denied": (502, "destination_ip_prohibited"),
    "coding_not_supported": (501, "http_request_error"),
    "no_route": (404, "destination_not_found"),
    "unknown_service": (404, "destination_not_found"),
    "no_instance": (503, "destination_unavailable"),
    "queue_full": (503, "connection_limit_reached"),
    "queue_timeout": (503, "connection_limit_reached"),
    "breaker_open": (503, "connection_limit_reached"),
    "rate_limited": (429, "http_request_denied"),
    "rate_table_full": (429, "http_request_denied"),
    "no_descriptor": (503, "connection_limit_reached"),
    "too_many_streams": (429, "http_request_denied"),
    "no_port": (503, "connection_limit_reached"),
    "connect_refused": (502, "connection_refused"),
    "connect_timeout": (504, "connection_timeout"),
    "dns_failed": (502, "dns_error"),
    "unreachable": (502, "destination_ip_unroutable"),
    "closed_early": (502, "connection_terminated"),
    "bad_answer": (502, "http_protocol_error"),
    "cut_short": (502, "http_response_incomplete"),
    "first_byte_timeout": (504, "http_response_timeout"),
    "idle_timeout": (504, "http_response_timeout"),
    "total_timeout": (504, "http_response_timeout"),
    "stream_refused": (503, "connection_limit_reached"),
    "no_upgrade": (502, "http_upgrade_failed"),
    "no_grpc": (502, "http_protocol_error"),
    "tls_failed": (502, "tls_protocol_error"),
    "misdirected": (421, "http_request_error"),
    "handshake_failed": (400, "http_request_error"),
    "bad_request": (400, "http_request_error"),
    "head_too_large": (431, "http_request_error"),
    "target_too_long": (414, "http_request_error"),
    "body_too_large": (413, "http_request_error"),
    "head_timeout": (408, "http_request_error"),
    "body_timeout": (408, "http_request_error"),
    "method_not_allowed": (405, "http_request_error"),
    "version_not_supported": (505, "http_request_error"),
    "expectation_failed": (417, "http_request_error"),
    "caller_denied": (403, "http_request_denied"),
    "unauthorised": (401, "http_request_denied"),
    "auth_unavailable": (503, "destination_unavailable"),
    "denied": (403, "http_request_denied"),
    "filter_failed": (500, "proxy_internal_error"),
    "filter_timeout": (504, "proxy_internal_error"),
    "filters_busy": (503, "connection_limit_reached"),
    "loop": (502, "proxy_loop_detected"),
    "client_gone": (499, "http_request_error"),
    "internal": (500, "proxy_internal_error"),
}
"""What must not change."""


@pytest.mark.parametrize("code", PROMISED)
def test_a_code_keeps_its_status_and_its_type(code: str) -> None:
    fault = FAULTS[code]
    assert (fault.status, fault.error) == PROMISED[code]


def test_every_fault_is_promised() -> None:
    assert set(PROMISED) == set(FAULTS)


def test_each_fault_has_a_code_of_its_own_and_is_called_after_it() -> None:
    named = {name: value for name, value in vars(errors).items() if isinstance(value, Fault)}
    assert named == {fault.code.upper(): fault for fault in FAULTS.values()}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_laws_of_the_table(fault: Fault) -> None:
    assert re.fullmatch("[a-z_]+", fault.code)  # A token, safe in a quoted string and a label.
    assert re.fullmatch("[a-z_]+", fault.error)
    if fault.side is Side.CLIENT:
        assert 400 <= fault.status < 500 or fault.status in (501, 505)
        assert not fault.repeat
    else:
        assert fault.status >= 500
    if fault.status in (408, 413, 414, 431):
        assert fault.closes
    assert fault.repeat in ("", "connect", "reset", "first_byte")
    for sentence in (fault.meaning, fault.remedy):
        assert sentence[-1] in ".?"
        assert "|" not in sentence


@pytest.mark.parametrize("name", [code.upper() for code in FAULTS])
def test_each_fault_can_happen(name: str) -> None:
    sources = [path for path in ROOT.glob("proxy/**/*.py") if path.name != "errors.py"]
    assert any(re.search(rf"\b{name}\b", path.read_text("utf-8")) for path in sources)


ENTRY = re.compile(r"\| `(?P<words>[^`]+)`(?P<more>[^|]*)\|.*?(?:\(`(?P<test>[\w/.:]+)`\) )?\|$")


def test_each_fault_has_an_entry_in_troubleshooting_that_was_tried() -> None:
    """By the test that the entry names, else by `tests/e2e/test_troubleshooting.py`."""
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    found: list[str] = []
    for line in page.splitlines():
        if (entry := ENTRY.match(line)) is None:
            continue
        named = {entry["words"], *re.findall("`([a-z_]+)`", entry["more"])} & FAULTS.keys()
        found += named
        for code in named:
            assert f"({FAULTS[code].status}" in entry["more"], line
        if entry["test"] is not None:
            path, _, test = entry["test"].partition("::")
            source = (ROOT / path).read_text("utf-8")
            assert re.search(rf"def {test}\(", source), line
            for code in named:
                told = (code, code.upper(), FAULTS[code].title, str(FAULTS[code].status))
                assert any(re.search(rf"\b{re.escape(one)}\b", source) for one in told), line
    assert sorted(found) == sorted(FAULTS)


def test_the_page_has_the_table_as_it_is() -> None:
    """`make docs` writes it."""
    _, _, rest = (ROOT / "docs/errors.md").read_text("utf-8").partition("| code |")
    assert "| code |" + rest == errors.rows()
