"""Whoever may write under `/fairlead/` and means harm: what stands there is none of ours until it
has been read, and one bad value harms neither the others nor whoever looks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy import listings
from proxy.fleet import marks, presence
from proxy.fleet.config import choose
from proxy.fleet.marks import LONGEST_BY
from proxy.fleet.merged import Document
from proxy.fleet.shares import ejected_by_most, loads_of
from proxy.fleet.versions import Found, Refused
from proxy.registry.etcd.wire import KeyValue
from proxy.registry.own import PAIR, own_of
from proxy.settings.complaints import ConfigError
from proxy.settings.file import Settings
from proxy.settings.fleet import SharedText
from proxy.settings.load import parse

KEY = "/fairlead/config/main"
NOW = datetime(2026, 11, 30, tzinfo=UTC)
NO_JSON = {
    "nothing": b"",
    "no JSON": b"x",
    "no UTF-8": b"\xff",
    "no UTF-8 inside": b'{"by": "\xff", "text": "\xff", "admin": "\xff"}',
    "no end": b'{"x": ' + b"[" * 5000,
    "a list": b"[]",
    "a number": b"7",
    "other types": b'{"by": 7, "text": [], "admin": 7, "load": [], "missing": "x", "config": 1}',
}


def held(**values: bytes) -> dict[bytes, KeyValue]:
    return {
        key.encode(): KeyValue(key=key.encode(), value=value, mod_revision=at)
        for at, (key, value) in enumerate(values.items(), 7)
    }


@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON.keys())
class TestValue:
    def test_of_a_mark_drains_its_instance_and_no_other(self, value: bytes) -> None:
        found = held(**{"/fairlead/marks/users/a": value, "/fairlead/marks/users/b": b"{}"})
        assert set(marks.read(found, NOW)) == {("users", "a"), ("users", "b")}

    def test_of_a_canary_leaves_the_key_in_force(self, value: bytes) -> None:
        chosen = choose(held(**{KEY: b"main", f"{KEY}.canary": value}), KEY, "a")
        assert chosen.shared is not None
        assert (chosen.shared.text, chosen.canary) == ("main", False)
        assert chosen.problem

    def test_of_a_canary_and_a_version_can_be_taken_back(self, value: bytes) -> None:
        good = msgspec.json.encode({"text": "good"})
        found = Found(
            KEY,
            held(
                **{
                    KEY: b"evil",
                    f"{KEY}.canary": value,
                    f"{KEY}.history/0000000001": good,
                    f"{KEY}.history/0000000002": value,
                    f"{KEY}.history/x": good,
                    f"{KEY}.history/99999999999999999999": good,
                }
            ),
        )
        assert [(one.number, one.text) for one in found.history] == [(1, "good")]
        for refused in (found.push, lambda text, by, at: found.promote(by, at)):
            with pytest.raises(Refused):
                refused("new", "", "")
        assert "withdrawn" in found.back(None, "", "")[1]
        writes, _ = found.back(1, "", "")
        puts = [op["request_put"]["value"] for op in writes.success if "request_put" in op]
        assert puts[0] == b"good"

    def test_of_a_proxy_is_one_that_does_not_serve(self, value: bytes) -> None:
        good = msgspec.json.encode(
            {"ready": True, "load": {"requests": 5.0}, "ejected": ["users/a"]}
        )
        found = presence.read(held(**{"/fairlead/proxies/a": good, "/fairlead/proxies/b": value}))
        assert [one["id"] for one in found] == ["a", "b"]
        assert not found[1]["ready"]
        assert found[1]["missing"]
        assert loads_of(found) == {"a": 5.0}
        assert ejected_by_most(found) == []
        assert len(list(listings.fleet({"proxies": found, "marks": []}))) == 3

    def test_of_metadata_is_no_record_of_ours(self, value: bytes) -> None:
        assert own_of({PAIR: value.decode(errors="surrogateescape")}) is None

    def test_of_another_proxys_answer_is_no_answer(self, value: bytes) -> None:
        with pytest.raises((ValueError, RecursionError)):
            msgspec.json.decode(value, type=Document)


def test_keys_that_are_no_text_are_about_nobody() -> None:
    found = held(**{"/fairlead/marks/users/a": b"{}"})
    bad = b"/fairlead/marks/users/\xff"
    assert set(marks.read({**found, bad: KeyValue(key=bad, value=b"{}")}, NOW)) == {("users", "a")}
    bad = b"/fairlead/proxies/\xff"
    assert len(presence.read({bad: KeyValue(key=bad, value=b"{}")})) == 1


def test_marks_that_people_are_shown_are_short_and_move_no_cursor() -> None:
    by = "\x1b[2J" + "x" * 10_000
    found = held(**{"/fairlead/marks/users/a": json.dumps({"by": by}).encode()})
    [mark] = marks.read(found, NOW).values()
    assert len(mark.by) == LONGEST_BY
    assert listings.printable(mark.by).isprintable()


LOCAL = 'registry: {type: etcd, endpoints: ["http://127.0.0.1:2379"]}\nconfig: {source: etcd}\n'
SHARED = {"services", "defaults", "routes", "filters"}


@pytest.mark.parametrize("section", sorted(set(Settings.__struct_fields__) - SHARED))
def test_no_section_of_the_machine_is_taken_from_the_key(section: str) -> None:
    for value in ("{}", "[]", "1", "~"):
        said = refused(f"{section}: {value}\n")
        assert said, value
        assert all(line.startswith(f"etcd:{KEY}:2: ") for line in said)


@pytest.mark.parametrize(
    "text",
    [
        "filters: {{x: {{basic_auth: {{users_file: {file}}}}}}}",
        "services: {{a: {{filters: [{{basic_auth: {{users_file: {file}}}}}]}}}}",
        "defaults: {{filters: [{{jwt: {{jwks_file: {file}, algorithms: [RS256]}}}}]}}",
    ],
)
def test_no_filter_of_the_key_reads_a_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret: {}\n")
    said = refused(text.format(file=file))
    assert any("config.allow" in line for line in said)
    assert not any("s3cret" in line for line in said)


def refused(text: str) -> list[str]:
    shared: Any = SharedText("routes: [{service: a}]\n" + text, f"etcd:{KEY}")
    with pytest.raises(ConfigError) as caught:
        parse(LOCAL, "proxy.yaml", {}, shared)
    return [str(one) for one in caught.value.complaints]
