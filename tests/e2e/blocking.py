"""Filters of tests that block in one of their hooks, in one of several ways."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from proxy.filters import Filter, Request, Response

ASTRAY = "a" * 40 + "b"


def sleep() -> None:
    time.sleep(3600)


def compute() -> None:
    while True:
        pass


def match() -> None:
    re.fullmatch("(a+)+", ASTRAY)  # 2^40 steps, and nobody else has the interpreter.


def receive() -> None:
    one, two = socket.socketpair()
    with one, two:
        one.recv(1)


def insist() -> None:
    while True:
        try:
            receive()
        except Exception:
            continue


def swallow() -> None:
    while True:
        try:
            sum(range(100))
        except:  # noqa: E722
            pass


WAYS: dict[str, Callable[[], None]] = {
    one.__name__: one for one in (sleep, compute, match, receive, insist, swallow)
}


class Blocking(Filter):
    """A filter that blocks where the request asks for it."""

    def __init__(self, *, hook: str, way: str, threads: bool = False) -> None:
        self.hook, self.threads = hook, threads
        self.block = WAYS[way]
        self.block_limit, self.time_limit = 0.3, 1.0

    def _come_to(self, hook: str, request: Request) -> None:
        if hook == self.hook and "X-Block" in request.headers:
            self.block()

    def _change(self, hook: str, request: Request) -> Callable[[bytes, bool], bytes]:
        def change(data: bytes, last: bool) -> bytes:
            self._come_to(hook, request)
            return data

        return change

    def on_request(self, request: Request) -> Any:
        self._come_to("request", request)
        if self.hook == "request content":
            request.transform(self._change(self.hook, request))
        return self._wait(request) if self.hook == "step" else None

    async def _wait(self, request: Request) -> None:
        await asyncio.sleep(0)
        self._come_to("step", request)

    def on_response(self, request: Request, response: Response) -> None:
        self._come_to("response", request)
        if self.hook == "response content":
            response.transform(self._change(self.hook, request))

    def on_end(self, request: Request, outcome: str) -> None:
        self._come_to("end", request)
