"""docs/configuration.md and the JSON Schema say what the settings declare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy.settings.declare import walk
from proxy.settings.document import json_schema, written_anew
from proxy.settings.file import File
from proxy.settings.load import parse

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
SCHEMA = json_schema()
EDITOR = jsonschema.Draft202012Validator(SCHEMA)
"""Checks files; the schema itself only once, below."""


def test_the_tables_of_the_page_are_those_that_make_docs_writes() -> None:
    assert written_anew(PAGE) == PAGE


def test_every_key_has_a_meaning_and_a_way_to_read_it() -> None:
    for name, key in walk(File):
        assert key.meaning.endswith("."), name
        assert (key.read is None) != (key.section is None), name


def examples() -> list[str]:
    """The page's examples; those of one section are completed with a route."""
    found = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    route = "\nroutes: [{service: users}]\n"
    alone = ("routes:", "config:")  # Those of a fleet are elsewhere.
    return [text if any(key in text for key in alone) else text + route for text in found]


@pytest.mark.parametrize("number", range(len(examples())))
def test_every_example_of_the_page_is_valid(number: int) -> None:
    environ = {"ETCD_PASSWORD": "secret", "NODE_PORT": "8080"}
    settings = parse(examples()[number], "proxy.yaml", environ)
    assert settings.routes or settings.config
    EDITOR.validate(yaml.safe_load(examples()[number]))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "section",
    [
        {"lissteners": []},
        {"listeners": {}},
        {"workers": 0},
        {"workers": "many"},
        {"services": {"a": {"timeouts": {"connect": 3}}}},
        {"services": {"a": {"timeouts": {"connect": "3 seconds"}}}},
        {"services": {"a": {"balancer": "best"}}},
        {"services": {"a": {"rate_limit": {}}}},
        {"services": {"a": {"retry": True}}},
        {"services": {"a": {"retry": {"on": ["500"]}}}},
        {"services": {"a": {"instances": [{"address": "10.0.0.1"}]}}},
        {"registry": {"type": "zookeper"}},
    ],
)
def test_an_editor_marks_what_check_refuses(section: dict[str, Any]) -> None:
    file = {"routes": [{"service": "a"}], **section}
    with pytest.raises(jsonschema.ValidationError):
        EDITOR.validate(file)


@pytest.mark.parametrize(
    "section",
    [
        {"workers": "${WORKERS}"},
        {"defaults": None},
        {"services": {"a": None}},
        {"services": {"a": {"balancer": {"type": "consistent_hash", "virtual_nodes": 10}}}},
        {"services": {"a": {"retry": False, "ejection": "off"}}},
        {"services": {"a": {"timeouts": {"connect": 0, "idle": "0"}}}},
    ],
)
def test_an_editor_accepts_what_check_accepts(section: dict[str, Any]) -> None:
    EDITOR.validate({"routes": [{"service": "a"}], **section})
