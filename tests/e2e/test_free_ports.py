"""Ports for tests are one test process's alone, also while nobody listens on them."""

from __future__ import annotations

import sys

from tests.e2e.programs import output
from tests.support.processes import free_port

ASK = "import sys; from tests.support.processes import PORTS; print(PORTS.ours(int(sys.argv[1])))"


async def test_a_port_that_one_process_has_is_given_out_by_no_other() -> None:
    mine = free_port()
    assert await output(sys.executable, "-W", "error", "-c", ASK, str(mine)) == b"False\n"


async def test_ports_of_a_process_are_free_when_it_has_ended() -> None:
    take = "from tests.support.processes import free_port; print(free_port())"
    theirs = (await output(sys.executable, "-c", take)).decode().strip()
    assert await output(sys.executable, "-c", ASK, theirs) == b"True\n"
