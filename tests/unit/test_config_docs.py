"""docs/configuration.md and the JSON Schema say what the settings declare."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from proxy.settings.complaints import ConfigError
from proxy.settings.declare import keys_of, walk
from proxy.settings.document import json_schema, written_anew
from proxy.settings.file import File
from proxy.settings.load import parse

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
SCHEMA = json_schema()
EDITOR = jsonschema.Draft202012Validator(SCHEMA)
"""Checks files; the schema itself only once, below."""


def test_the_tables_of_the_page_are_those_that_make_docs_writes() -> None:
    assert written_anew(PAGE) == PAGE


def test_the_page_has_a_table_for_every_key_at_the_top() -> None:
    tables = " ".join(re.findall(r"^<!-- keys: (.*) -->$", PAGE, re.MULTILINE)).split()
    assert sorted(tables) == sorted(keys_of(File).keys() - {"defaults"})  # As `services.*`.


def test_every_key_has_a_meaning_and_a_way_to_read_it() -> None:
    for name, key in walk(File):
        assert key.meaning.endswith("."), name
        assert (key.read is None) != (key.section is None), name


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
        {"registry": {"type": "etcd", "endpoints": ["127.0.0.1:2379"]}},
        {"listeners": [{"bind": "8080"}]},
        {"listeners": [{"trusted_proxies": ["lan"]}]},
        {"routes": [{"path_prefix": "orders", "service": "a"}]},
    ],
)
def test_an_editor_marks_what_check_refuses(section: dict[str, Any]) -> None:
    file = {"routes": [{"service": "a"}], **section}
    with pytest.raises(jsonschema.ValidationError):
        EDITOR.validate(file)
    with pytest.raises(ConfigError):
        parse(json.dumps(file), "proxy.yaml", {})


@pytest.mark.parametrize(
    "section",
    [
        {"workers": "${WORKERS:-1}"},
        {"defaults": None},
        {"services": {"a": None}},
        {"services": {"a": {"balancer": {"type": "consistent_hash", "virtual_nodes": 10}}}},
        {"services": {"a": {"retry": False, "ejection": "off"}}},
        {"services": {"a": {"timeouts": {"connect": 0, "idle": "0"}}}},
        {"services": {"a": {"subset": {"select": {"version": 2, "spare": False}}}}},
        {"services": {"a": {"retry": {"on": [503]}, "health_check": {"expect": 200}}}},
        {"registry": {"type": "etcd", "endpoints": ["HTTP://a:1"], "prefix": 7}},
        {"listeners": [{"bind": "unix:/run/a.sock", "mode": 660}]},
        {"listeners": [{"bind": "127.0.0.1:${PORT:-80}", "trusted_proxies": ["::1"]}]},
        {"listeners": [{"bind": "[::1]:80"}]},
    ],
)
def test_an_editor_accepts_what_check_accepts(section: dict[str, Any]) -> None:
    file = {"routes": [{"service": "a"}], **section}
    EDITOR.validate(file)
    parse(json.dumps(file), "proxy.yaml", {})
