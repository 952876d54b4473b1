"""Small decisions around processes: when to restart, how to start, what to say."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from proxy.admin_client import AdminClient, url_of
from proxy.control.launch import (
    ALLOCATOR,
    describe_exit,
    environment_of_workers,
    module_command,
)
from proxy.control.worker_slot import LONGEST_DELAY, restart_delay


def test_the_first_replacement_starts_at_once_and_none_waits_longer_than_a_second() -> None:
    delays = [restart_delay(deaths) for deaths in range(1, 40)]
    assert delays[0] == 0.0
    assert delays[1] > 0.0
    assert delays == sorted(delays)
    assert max(delays) == LONGEST_DELAY == 1.0


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-signal.SIGKILL, "signal SIGKILL")],
)
def test_exits_are_named(returncode: int, words: str) -> None:
    assert describe_exit(returncode) == words


def test_an_unnamed_signal_has_its_number() -> None:
    assert describe_exit(-40) == "signal 40"


@pytest.mark.parametrize(
    ("search", "options"),
    [(["/elsewhere"], ["-P"]), (["/elsewhere", ""], []), ([os.getcwd()], [])],
)
def test_a_child_looks_into_the_current_directory_only_if_we_do(
    search: list[str], options: list[str]
) -> None:
    expected = (sys.executable, *options, "-m", "some.module")
    assert module_command("some.module", search) == expected


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:9900", "http://127.0.0.1:9900"),
        ("0.0.0.0:9900", "http://127.0.0.1:9900"),
        (":9900", "http://127.0.0.1:9900"),
        ("[::]:9900", "http://[::1]:9900"),
        ("[::1]:9900", "http://[::1]:9900"),
        ("admin.internal:1", "http://admin.internal:1"),
    ],
)
def test_where_a_local_client_reaches_a_server(bind: str, url: str) -> None:
    assert url_of(bind) == url
    assert url_of(bind, secure=True) == url.replace("http:", "https:")
    assert AdminClient(url).url == url


def test_hash_seeds_of_workers_do_not_follow_from_the_environment() -> None:
    own = {"PYTHONHASHSEED": "0", "HOME": "/", "MALLOC_TOP_PAD_": "1"}
    environment = environment_of_workers(own, {"LEVEL": "info"})
    assert environment["PYTHONHASHSEED"] == "random"
    assert {**ALLOCATOR, **own, "LEVEL": "info", "PYTHONHASHSEED": "random"} == environment
