"""What pages show of `proxy.yaml` and of records is taken by the proxy as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from proxy.demo import examples
from proxy.registry import lists
from proxy.registry.records import read, split_key
from proxy.settings.complaints import ConfigError
from proxy.settings.document import json_schema
from proxy.settings.load import load, parse
from tests.support.shown import Block, blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EDITOR = jsonschema.Draft202012Validator(json_schema())
ELSEWHERE = {
    "README.md": "mine:",  # tests/e2e/test_readme.py
    "docs/filters.md": "",  # tests/contract/test_filters.py
    "docs/plugins.md": "fairlead_examples",  # tests/e2e/test_plugins.py
    "docs/registries.md": "^(apiVersion|users):",  # of Kubernetes; a file of instances
}
"""Page → what its blocks of YAML have in them that are no `proxy.yaml` that stands alone."""
OF_THE_MACHINE = re.compile(r"cannot be read \(No such file or directory\)|is no directory")
"""Complaints about files that a reader's machine has, and that of a test has not."""


def shown() -> Iterator[tuple[str, Block]]:
    """Each place with what it shows of a `proxy.yaml`."""
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")]):
        name = page.relative_to(ROOT).as_posix()
        for block in blocks(page.read_text("utf-8")):
            ours = block.language == "yaml" and block.title in ("", "proxy.yaml")
            if ours and not (name in ELSEWHERE and re.search(ELSEWHERE[name], block.text, re.M)):
                yield f"{name}:{block.line}", block


@pytest.mark.parametrize("block", [pytest.param(block, id=place) for place, block in shown()])
def test_proxy_yaml_of_a_page_is_accepted(block: Block, tmp_path: Path) -> None:
    text = block.text
    # Examples of one section are completed with a route, those of a fleet's key have theirs there.
    if not re.search(r"^(routes|config):", text, re.MULTILINE):
        text += "\nroutes: [{service: users}]\n"
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "8080")
    # To YAML of 1.1, which PyYAML reads, `on` is a truth value.
    EDITOR.validate(yaml.safe_load(re.sub(r"\bon:", '"on":', text)))
    try:
        parse(text, str(tmp_path / "proxy.yaml"), environ)
    except ConfigError as error:
        told = [str(complaint) for complaint in error.complaints]
        assert not [one for one in told if not OF_THE_MACHINE.search(one)]


def test_lines_to_try_are_those_that_the_demo_prints() -> None:
    lines = re.findall(r"^(curl .*?) +#", README, re.MULTILINE)
    printed = examples(load(ROOT / "proxy.yaml", {}))
    assert len(lines) == 3
    assert set(lines) <= set(printed)


def test_record_of_the_first_page_is_an_instance() -> None:
    [(key, record)] = re.findall(r"^(/services/\S+) +(\{.*?\}\})$", README, re.M | re.S)
    parts = split_key(key.encode(), b"/services/")
    assert parts == ("users", "users-1")
    instance, odd = read(*parts, record.encode())
    assert (instance.weight, instance.health, odd) == (2, "healthy", "")


def test_instances_that_a_page_shows_in_files_are_read() -> None:
    text = (ROOT / "docs/registries.md").read_text("utf-8")
    found = {}
    for block in blocks(text):
        if block.text.startswith(("users:", "[{")):
            read = {**lists.records(yaml.safe_load(block.text))}
            found[block.language] = [lists.read_record(*one)[0] for one in read.items()]
    for language, ids in (("yaml", ["users-1", "10.0.0.6:8080"]),
                          ("json", ["10.0.0.5:8080", "10.0.0.6:8080"])):  # fmt: skip
        assert [(one.service, one.id) for one in found[language]] == [("users", id_) for id_ in ids]
        assert found[language][0].metadata["zone"] == "b"


RUN = {
    "README.md": "tests/e2e/test_readme.py",
    "README.zh-CN.md": "tests/e2e/test_pages_in_chinese.py",
    "docs/discovery.md": "tests/e2e/test_programs_of_pages.py",
    "docs/embedding.md": "tests/e2e/test_programs_of_pages.py",
    "docs/etcd.md": "tests/e2e/test_etcd_backup.py",
    "docs/filters.md": "tests/contract/test_filters.py",
    "docs/install.md": "tests/e2e/test_install_paths.py",
    "docs/mesh.md": "tests/e2e/test_mesh_example.py",
    "docs/plugins.md": "tests/e2e/test_plugins.py",
    "docs/registering.md": "tests/e2e/test_programs_of_pages.py",
    "docs/testing.md": "tests/e2e/test_pages.py",
    "docs/tls.md": "tests/e2e/test_tls_files.py",
    "docs/tutorial.md": "tests/e2e/test_pages.py",
    "docs/zh/tutorial.md": "tests/e2e/test_pages_in_chinese.py",
}
"""Page with commands or programs → the test that runs them."""
NOT_RUN = {
    "bench/README.md": "minutes for each, and what they print is of the machine",
    "docs/access-log.md": "of logrotate, which is not here",
}
LOOKS = {"docs/architecture.md", "docs/request.md"}
"""Pages whose blocks without a language are drawings."""


def test_a_page_with_commands_has_a_test_that_runs_them() -> None:
    pages = {
        page.relative_to(ROOT).as_posix(): page.read_text("utf-8")
        for page in (*ROOT.glob("*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("docs/**/*.md"))
    }
    languages = {"", "bash", "console", "dockerfile", "python", "sh"}
    with_some = {
        name for name, text in pages.items() if languages & {one.language for one in blocks(text)}
    }
    assert with_some - LOOKS == {*RUN, *NOT_RUN}
    assert all((ROOT / test).exists() for test in RUN.values())
