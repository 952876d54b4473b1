"""What `make release` refuses, on trees of a few files."""

from __future__ import annotations

from pathlib import Path

import pytest

from release import wheels
from release.checks import faults

GOOD = {
    "pyproject.toml": """[project]\nversion = "1.2.0"\nurls = {Source = "https://x.test"}\n""",
    "proxy/__init__.py": '__version__ = "1.2.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-30\n- All.\n",
    "deploy/helm/Chart.yaml": "appVersion: 1.2.0\n",
    "docs/install.md": "docker build -t fairlead:1.2.0 .\n",
    "dist/fairlead_proxy-1.2.0.tar.gz": "",
    "dist/fairlead_proxy-1.2.0-cp311-cp311-manylinux_2_17_x86_64.whl": "",
}


def found(root: Path, **changes: str) -> list[str]:
    for name, content in (GOOD | changes).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return list(faults(root))


def test_release_that_fits_has_no_faults(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("proxy/__init__.py", '__version__ = "1.1.0"\n', "says 1.1.0, pyproject.toml 1.2.0"),
        ("pyproject.toml", '[project]\nversion = "1.2.0"\n', "no [project.urls]"),
        ("deploy/helm/Chart.yaml", "appVersion: 1.1.0\n", "Chart.yaml names 1.1.0"),
        ("docs/install.md", "$ fairlead version\nfairlead 1.1.0\n", "install.md names 1.1.0"),
        ("CHANGELOG.md", "## [1.2.0]\n", 'no line "## [1.2.0] - YYYY-MM-DD"'),
        ("CHANGELOG.md", "## [Unreleased]\n- New.\n\n## [1.2.0] - 2026-11-30\n", "[Unreleased]"),
        ("dist/fairlead_proxy-1.1.0.tar.gz", "", "1.1.0.tar.gz is of another version"),
    ],
)
def test_release_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (fault,) = found(tmp_path, **{name: content})
    assert words in fault


def test_release_without_packages_is_refused(tmp_path: Path) -> None:
    found(tmp_path)
    for path in tmp_path.glob("dist/*"):
        path.unlink()
    assert [fault.partition(":")[0] for fault in faults(tmp_path)] == [
        "dist/ has no sdist of 1.2.0",
        "dist/ has no wheel of 1.2.0 for manylinux",
    ]


def test_rows_of_wheels_come_into_the_page_and_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "install.md"
    page.write_text(wheels.PAGE.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(wheels, "PAGE", page)
    monkeypatch.setattr(wheels, "COMPILED", "1")
    before = page.read_text("utf-8").partition("<!-- wheels -->")[0]
    ratio = "1.20 (1.10 to 1.30) × nginx"
    row = wheels.Row("cp313", "manylinux2014_x86_64", 1, 2, 0.3, ratio, "9 passed in 2s")
    for _ in range(2):
        wheels._publish({"cp313": str(row)})
        assert dict(wheels._published()) == {"cp313": str(row)}
    assert wheels._said_of("cp313") == "9 passed in 2s"
    assert wheels._said_of("cp312") == "not run"
    text = page.read_text("utf-8")
    assert text.startswith(before)
    assert text.count("| CPython |") == 1
    assert "<!-- end -->" in text
