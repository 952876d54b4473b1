"""The picture of a result: what is drawn of it, and that it is well-formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from bench.plot import CLIP, Bar, Group, caption, groups, main, newest, svg

SVG = "{http://www.w3.org/2000/svg}"


def row(peer: str, **ratios: float) -> dict[str, Any]:
    return {"peer": peer, "ratios": {name.replace("_", " +"): v for name, v in ratios.items()}}


RESULT: dict[str, Any] = {
    "machine": {"cpu": "A CPU", "cores": 2},
    "versions": {"fairlead": "0.1.0", "nginx": "1.22.1"},
    "rounds": 3,
    "scenarios": [
        {
            "name": "access_log",
            "rows": [
                row("fairlead", nginx=1.8),
                row("fairlead +log", nginx=2.0, nginx_log=1.9),
                row("nginx"),
                row("nginx +log", nginx=1.1),
            ],
        },
        {"name": "small_get", "rows": [row("fairlead", nginx=1.8), row("nginx", fairlead=0.6)]},
        {"name": "download_1m", "rows": [row("fairlead", haproxy=1.1), row("haproxy")]},
    ],
}


def test_each_scenario_becomes_a_group_of_bars() -> None:
    assert groups(RESULT) == [
        Group("small GET", (Bar("fairlead", 1.8), Bar("nginx", 1.0))),
        Group("with access log", (Bar("fairlead", 1.9), Bar("nginx", 1.0))),
    ]


def test_the_caption_tells_what_ran_where() -> None:
    assert caption(RESULT) == (
        "Fairlead 0.1.0, nginx 1.22.1; A CPU, 2 cores; medians of 3 interleaved rounds"
    )


def test_the_caption_says_when_others_had_the_core() -> None:
    busy = {"scenarios": [{"rows": [{"foreign_share": 0.3}]}]}
    assert caption({**RESULT, **busy}).endswith("rounds, on a BUSY machine")


def test_the_picture_is_xml_with_a_bar_for_each_proxy() -> None:
    root = ElementTree.fromstring(svg(groups(RESULT), "a < b & c"))
    widths = [float(rect.attrib["width"]) for rect in root.iter(f"{SVG}rect")][2:]
    assert len(widths) == 4
    assert widths[0] / widths[1] == pytest.approx(1.8, rel=0.01)
    assert [text.text for text in root.iter(f"{SVG}text")][-1] == "a < b & c"


def test_a_bar_that_is_too_long_ends_and_keeps_its_figure() -> None:
    drawn = [Group("t", (Bar("nginx", 1.0), Bar("slow", 10 * CLIP)))]
    root = ElementTree.fromstring(svg(drawn, ""))
    widths = [float(rect.attrib["width"]) for rect in root.iter(f"{SVG}rect")][2:]
    assert widths[1] / widths[0] == pytest.approx(CLIP, rel=0.01)
    assert "80.00 ▸" in [text.text for text in root.iter(f"{SVG}text")]


def test_a_picture_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        svg([], "")


def test_the_latest_comparison_is_taken(tmp_path: Path) -> None:
    for name, result in (("1", RESULT), ("2", RESULT), ("3", {"kind": "something else"})):
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(result))
    assert newest(tmp_path).name == "2.json"
    (tmp_path / "published.json").write_bytes(msgspec.json.encode(RESULT))
    assert newest(tmp_path).name == "2.json"
    (tmp_path / "1.json").unlink()
    (tmp_path / "2.json").unlink()
    assert newest(tmp_path).name == "published.json"
    with pytest.raises(ValueError, match="no result"):
        newest(tmp_path / "absent")


def test_from_file_to_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, output = tmp_path / "r.json", tmp_path / "images" / "bench.svg"
    assert main([str(result), "--output", str(output)]) == 1
    assert "bench plot:" in capsys.readouterr().err
    result.write_bytes(msgspec.json.encode(RESULT))
    assert main([str(result), "--output", str(output)]) == 0
    assert output.read_text().startswith("<svg ")
