"""Every callback that is about a request ends that request when something in it raises."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "proxy/engine"
CALLBACKS = {
    "data_received", "eof_received", "connection_lost", "pause_writing", "resume_writing",
    "on_deadline", "on_connected", "on_connect_failed", "on_dial_raised", "on_turn",
}  # fmt: skip
"""What event loop, wheel, connector and line call."""
FILES = (
    "attempts.py", "exchange.py", "http1/client.py", "http1/requests.py", "http1/server.py",
    "http1/server_connection.py",
)  # fmt: skip
SET_UP = {"soon", "call_soon", "call_later", "call_at", "Alarm", "Tunnel"}
"""Whoever is given a method calls it back."""


@pytest.mark.parametrize(
    "name",
    [
        "exchange.py",
        "attempts.py",
        *(f"http1/{n}.py" for n in ("client", "requests", "server", "server_connection")),
    ],
)
def test_a_callback_sees_to_what_is_raised_in_it(name: str) -> None:
    tree = ast.parse((ENGINE / name).read_text("utf-8"))
    callbacks = CALLBACKS | {
        argument.attr
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in SET_UP
        for argument in call.args
        if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "self"
    }
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in callbacks:
            handlers = [h for t in ast.walk(node) if isinstance(t, ast.Try) for h in t.handlers]
            caught = [h for h in handlers if h.type and ast.unparse(h.type) == "Exception"]
            told = "fail_inside" in ast.unparse(node)
            idle = "client" in name and node.name == "eof_received"  # Of a request it says nothing.
            assert (caught and told) or node.name == "on_dial_raised" or idle, node.name
            found += 1
    assert found
