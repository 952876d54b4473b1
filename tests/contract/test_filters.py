"""One suite over all kinds of filters of the catalogue."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy import catalog
from proxy.engine.filters import make
from proxy.filters import Filter
from proxy.settings.declare import keys_of
from proxy.settings.document import json_schema
from proxy.settings.filters import FilterSpec
from proxy.settings.load import parse
from proxy.testing.filters import FilterContract

PAGE = (Path(__file__).parents[2] / "docs/filters.md").read_text("utf-8")
EDITOR = jsonschema.Draft202012Validator(json_schema())
JWKS = {"keys": [{"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}
EXAMPLES: list[str] = re.findall(r"^\w+: \{\w+: .*\}$", PAGE, re.MULTILINE)
"""Filters of the page, each a line of YAML."""
HASH = "$2y$05$" + "a" * 53


def kind_of(example: str) -> str:
    [kinds] = yaml.safe_load(example).values()
    [kind] = kinds
    return str(kind)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The files that the examples name."""
    (tmp_path / "users.htpasswd").write_text(f"bob:{HASH}\n")
    (tmp_path / "keys.json").write_text(json.dumps(JWKS))
    for page in ("back-at-noon.html", "sorry.html"):
        (tmp_path / page).write_text("<p>")
    return tmp_path


def read(example: str, directory: Path) -> tuple[FilterSpec, ...]:
    """The filters of a route that has the example's."""
    text = "filters:\n  " + example.replace("ann:$2y$05$…", f"ann:{HASH}")
    text += f"\nroutes: [{{service: a, filters: [{example.partition(':')[0]}]}}]\n"
    EDITOR.validate(yaml.safe_load(text))
    return parse(text, str(directory / "proxy.yaml"), {}).routes[0].filters


def test_each_kind_has_an_example() -> None:
    assert {kind_of(example) for example in EXAMPLES} >= set(catalog.FILTERS) - {"deny"}


@pytest.mark.parametrize("example", EXAMPLES, ids=kind_of)
class TestFilters(FilterContract):
    """The examples of the page, each read from a file that has it."""

    @pytest.fixture(autouse=True)
    def spec(self, example: str, directory: Path) -> None:
        [self._spec] = read(example, directory)

    def make(self) -> Filter:
        return make(catalog.plug_in("filters", self._spec.kind), self._spec.settings)


@pytest.mark.parametrize("kind", catalog.FILTERS)
def test_a_kind_says_what_it_is_and_what_it_does_when_it_cannot(kind: str) -> None:
    one: Any = catalog.plug_in("filters", kind)
    assert one.meaning.endswith(".")
    assert not one.short or one.short in keys_of(one.options)
    [row] = [line for line in PAGE.splitlines() if re.match(rf"\| \[.*`{kind}`.*\]\(#", line)]
    assert len(row.strip("|").split(" | ")) == 4
    assert f"### `{kind}`" in PAGE or f"and `{kind}`\n" in PAGE


@pytest.mark.parametrize("kind", catalog.FILTERS)
def test_a_hook_that_waits_is_bounded_by_what_it_asks(kind: str) -> None:
    """Only those that ask somebody wait whatever comes; others are no coroutines."""
    one: Any = catalog.plug_in("filters", kind)
    waiting = [name for name in ("on_request", "on_response", "on_end")
               if inspect.iscoroutinefunction(getattr(one, name))]  # fmt: skip
    assert waiting == (["on_request"] if kind == "forward_auth" else [])
