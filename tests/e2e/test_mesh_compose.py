"""The mesh of `deploy/compose-mesh.yaml`, with what its first lines say to type: each service calls
the next one by mutual TLS, and all go in order."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.composed import Composed
from tests.e2e.own_root import can_have_own_root
from tests.e2e.programs import REPOSITORY, output
from tests.support.processes import eventually

TEXT = (REPOSITORY / "deploy/compose-mesh.yaml").read_text("utf-8")
SIDE_CARS = ("users", "orders", "web-sidecar", "client")
STRANGER = """
import ssl, urllib.request
context = ssl._create_unverified_context()
try:
    print(urllib.request.urlopen("https://web:18443/", context=context, timeout=10).status)
except (ssl.SSLError, OSError) as error:
    print("refused")
"""

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("ip", "node"))), reason="there is no Node.js, or no ip"
)


def typed() -> tuple[list[str], list[str]]:
    """Lines to type before all are up, and the words of the command that is run in `client`."""
    lines = re.findall(r"^#   (.*)", TEXT.replace("\\\n#", " "), re.MULTILINE)
    before = [line for line in lines if line.startswith(("fairlead ", "for "))]
    (call,) = (line for line in lines if " exec " in line)
    words = shlex.split(call)
    environment, service = words[words.index("-e") + 1 :][:2]
    assert service == "client"
    return before, [environment, *words[words.index("client") + 1 :]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file in a copy of this repository, with identities made as its first lines say, by the
    user that the containers have."""
    if not can_have_own_root(tmp_path):
        pytest.skip("needs root, and a file system of its own")
    (tmp_path / "deploy").mkdir()
    shutil.copytree(REPOSITORY / "examples/mesh", tmp_path / "examples/mesh")
    file = tmp_path / "deploy/compose-mesh.yaml"
    file.write_text(TEXT)
    return file


async def test_services_call_each_other_and_go_in_order(file: Path) -> None:
    before, call = typed()
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "\n".join(["set -e", f"cd {shlex.quote(str(file.parents[1]))}", *before])
    await output("env", path, "/bin/sh", "-c", script)
    for one in (file.parent / "identity").rglob("*"):
        os.chown(one, 1000, 0, follow_symlinks=False)
    async with Composed(file) as site:

        async def answered() -> bool:
            return await site.run("client", *call, statuses=(0, 1)) == "b'web: an order of ann'\n"

        await eventually(answered, 90.0, site.log)
        assert await site.run("client", "python", "-c", STRANGER) == "refused\n"
        look = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:15000/metrics').read())"
        )
        proved = 'fairlead_caller_requests_total{service="web:inbound",caller="client",code="200"}'
        assert proved in await site.run("web-sidecar", "python", "-c", look)
        codes = await site.down()
        assert codes == dict.fromkeys(codes, 0), site.log()
        # What depends on another one goes first: the program answers until its side-car is gone.
        assert site.ended.index("web-sidecar") < site.ended.index("web")
        order = {name: site.ended.index(name) for name in ("etcd", *SIDE_CARS)}
        assert max(order, key=lambda name: order[name]) == "etcd"
        for name in SIDE_CARS:
            lines = site.log(name).splitlines()
            events = [json.loads(line)["event"] for line in lines if line[:1] == "{"]
            order = ["registered", "draining", "deregistered", "worker_stopped"]
            assert [one for one in events if one in order] == order, site.log(name)
