"""What README.md says of extending the proxy, copied and pasted."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import aiohttp

from tests.e2e.origin import Call, origins
from tests.support.processes import AwaitedProcess, eventually, free_port

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
SECTION = README.partition("\n## Extend it\n")[2].partition("\n## ")[0]
BLOCKS = dict(re.findall(r"^```(python|yaml)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL))


async def name(call: Call) -> None:
    await call.reply(call.origin.name.encode())


async def test_the_section_works_by_copy_and_paste(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BLOCKS["python"])
    port, admin = free_port(), free_port()
    async with origins("a", "b", script=name) as (a, b):
        text = BLOCKS["yaml"].replace("9001", str(a.port)).replace("9002", str(b.port))
        # Other ports than the usual ones, which may be in use here.
        text += f'listeners: [{{bind: "127.0.0.1:{port}"}}]\nadmin: {{bind: "127.0.0.1:{admin}"}}\n'
        (tmp_path / "proxy.yaml").write_text(text)
        # As if the wheel were installed: the sources are found, and the directory by PYTHONPATH.
        found = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
        command = [sys.executable, "-P", "-m", "proxy", "run", "-c", str(tmp_path / "proxy.yaml")]
        proxy = AwaitedProcess(command, tmp_path / "log", {"PYTHONPATH": found})
        proxy.launch()
        try:
            async with aiohttp.ClientSession() as session:

                async def served() -> bool:
                    try:
                        async with session.get(f"http://127.0.0.1:{port}/") as answer:
                            return answer.status == 200
                    except aiohttp.ClientError:
                        return False

                await eventually(served, 30, "an answer")
                for _ in range(5):
                    async with session.get(f"http://127.0.0.1:{port}/") as answer:
                        assert answer.headers["X-Served-By"] == "users"
                        assert await answer.text() == "a"
                await a.stop()
                async with session.get(f"http://127.0.0.1:{port}/") as answer:
                    assert await answer.text() == "b"
        finally:
            await proxy.stop()
            await proxy.kill()
