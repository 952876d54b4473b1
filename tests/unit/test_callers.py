"""Who may call a service."""

from __future__ import annotations

import pytest

from proxy.engine.callers import Callers
from proxy.errors import CALLER_DENIED
from proxy.settings.callers import Caller, CallersSettings

CALLERS = Callers(
    "users",
    CallersSettings(
        allow=(
            Caller(service="web"),
            Caller(service="orders", methods=("GET", "HEAD"), path_prefixes=("/users", "/v2/")),
            Caller(service="orders", methods=("POST",), path_prefixes=("/orders",)),
            Caller(service="*", path_prefixes=("/health",)),
        )
    ),
)


@pytest.mark.parametrize(
    ("caller", "method", "paths"),
    [
        ("web", "DELETE", ["/x"]),
        ("orders", "GET", ["/users"]),
        ("orders", "HEAD", ["/users/7"]),
        ("orders", "GET", ["/v2/x"]),
        ("orders", "POST", ["/orders/1"]),
        ("anybody", "PUT", ["/health/deep"]),
        ("orders", "GET", ["/users/%2Fx", "/users/x"]),
        ("web", "", []),
    ],
)
def test_an_entry_that_fits_is_enough(caller: str, method: str, paths: list[str]) -> None:
    assert CALLERS.refusal(caller, method, paths) is None


@pytest.mark.parametrize(
    ("caller", "method", "paths", "said"),
    [
        ("", "GET", ["/health"], "the client has not proved to be a service"),
        ("orders", "POST", ["/users"], "orders is not allowed POST /users"),
        ("orders", "GET", ["/usersx"], "orders is not allowed GET /usersx"),
        ("orders", "GET", ["/users/..%2Fadmin", "/admin"], "orders is not allowed GET /admin"),
        ("anybody", "GET", ["/users"], "anybody is not allowed GET /users"),
        *(
            (one, "", [], f"{one} is allowed by method or path alone, and a connection has neither")
            for one in ("orders", "anybody")
        ),
    ],
)
def test_refusals_say_whom_and_what(caller: str, method: str, paths: list[str], said: str) -> None:
    refusal = CALLERS.refusal(caller, method, paths)
    assert refusal is not None
    assert (refusal.fault, refusal.detail) == (CALLER_DENIED, f"callers of users: {said}")


def test_a_list_without_entries_allows_nobody() -> None:
    assert Callers("users", CallersSettings()).refusal("web", "GET", ["/"]) is not None
