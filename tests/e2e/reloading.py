"""Changing the file of a running proxy, and having it read."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.e2e.origin import Call
from tests.e2e.running import RunningProxy


async def name(call: Call) -> None:
    """The script of an origin that answers with its name."""
    await call.reply(call.origin.name.encode())


def rewrite(proxy: RunningProxy, changed: dict[str, Any]) -> None:
    """The proxy's file is as it was at the start, but for these keys."""
    proxy.file.write_text(json.dumps({**proxy.config, **changed}))


async def reload(proxy: RunningProxy, *options: str) -> tuple[int, str]:
    """`fairlead reload` as an operator runs it: exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "reload", "--admin", proxy.admin, *options,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()
