"""What commands of a fleet refuse before they ask anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main

LOCAL = """\
registry: {type: etcd, endpoints: ["http://127.0.0.1:1"]}
config: {source: etcd, key: /fairlead/config/main}
"""


def ran(directory: Path, *arguments: str) -> Result:
    local = directory / "proxy.yaml"
    local.write_text(LOCAL)
    return CliRunner().invoke(main, ["config", *arguments, "-c", str(local)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", ""), "names nobody; allowed: such as a,b"),
        (("--to", " , "), "names nobody; allowed: such as a,b"),
        (("--to", "a", "--share", "10%"), "--to stands beside --share; allowed: one of the two"),
    ],
)
def test_a_canary_for_nobody_is_not_for_all(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    pushed = tmp_path / "shared.yaml"
    pushed.write_text("routes: []\n")
    result = ran(tmp_path, "push", str(pushed), *options)
    assert (result.exit_code, words in result.output) == (2, True)


def test_a_sidecar_that_may_reach_nobody_may_not_reach_all() -> None:
    options = ("--service", "a", "--port", "1", "--identity", "/none")
    result = CliRunner().invoke(main, ["sidecar", *options, "--to", ""])
    assert (result.exit_code, "names nobody; allowed: such as a,b" in result.output) == (2, True)


def test_differences_to_a_file_that_cannot_be_read_are_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"x\xff")
    for name, words in (
        ("none", "there is no such file; allowed: a YAML file"),
        (".", "is a directory; allowed: a YAML file"),
        ("binary", "not text: the byte 0xff is not UTF-8; allowed: UTF-8"),
    ):
        result = ran(tmp_path, "diff", str(tmp_path / name))
        assert (result.exit_code, words in result.output) == (2, True)
        assert result.output.count("\n") == 1
