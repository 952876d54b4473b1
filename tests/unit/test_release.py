"""What `make release` refuses, on trees of four files."""

from __future__ import annotations

from pathlib import Path

import pytest

from release.checks import faults

GOOD = {
    "pyproject.toml": '[project]\nversion = "1.2.0"\n',
    "proxy/__init__.py": '__version__ = "1.2.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-30\n- All.\n",
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
