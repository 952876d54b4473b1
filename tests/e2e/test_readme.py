"""What README.md says of extending the proxy, copied and pasted beside an installed wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.origin import Call, origins
from tests.support.processes import AwaitedProcess, eventually, free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SECTION = README.partition("\n## Extend it\n")[2].partition("\n## ")[0]
BLOCKS = dict(re.findall(r"^```(python|yaml)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL))


async def name(call: Call) -> None:
    await call.reply(call.origin.name.encode())


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The `fairlead` of an environment that has a wheel of this tree, not compiled, and this
    environment's libraries."""
    source, wheels, place = tmp_path / "source", tmp_path / "wheels", tmp_path / "venv"
    left_out = shutil.ignore_patterns(".*", "build", "tests", "bench", "docs", "*.so", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=left_out)

    def run(*command: str | Path) -> None:
        environ = {**os.environ, "FAIRLEAD_COMPILED": "0", "CC": "false"}
        done = subprocess.run(
            command, cwd=source, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    pip = sys.executable, "-m", "pip", "--disable-pip-version-check"
    alone = "--quiet", "--no-deps", "--no-index"
    run(*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", wheels, ".")
    run(sys.executable, "-m", "venv", "--without-pip", place)
    [wheel] = wheels.glob("*.whl")
    [libraries] = place.glob("lib/python*/site-packages")
    run(*pip, "--python", place / "bin/python", "install", *alone, wheel)
    # Behind the wheel, and without what is installed there to be edited: only `site` reads that.
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (libraries / "libraries.pth").write_text("".join(f"{path}\n" for path in theirs))
    found = subprocess.check_output(
        [place / "bin/python", "-c", "import proxy; print(proxy.__file__)"], cwd=tmp_path, text=True
    )
    assert Path(found).is_relative_to(place)
    return place / "bin/fairlead"


async def test_the_section_works_by_copy_and_paste(tmp_path: Path, installed: Path) -> None:
    (tmp_path / "mine.py").write_text(BLOCKS["python"])
    port, admin = free_port(), free_port()
    async with origins("a", "b", script=name) as (a, b):
        text = BLOCKS["yaml"].replace("9001", str(a.port)).replace("9002", str(b.port))
        # Other ports than the usual ones, which may be in use here.
        text += f'listeners: [{{bind: "127.0.0.1:{port}"}}]\nadmin: {{bind: "127.0.0.1:{admin}"}}\n'
        (tmp_path / "proxy.yaml").write_text(text)
        environ = {"PYTHONPATH": ".", "PATH": f"{installed.parent}:{os.environ['PATH']}"}
        proxy = AwaitedProcess(["fairlead", "run"], tmp_path / "log", environ, tmp_path)
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
