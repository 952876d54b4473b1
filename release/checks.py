"""`make release`: is what lies in `dist/` fit to be published as the version that the sources say?

Version, changelog, sdist, wheels, a bill of materials. Nothing is signed, tagged or sent anywhere:
that is the maintainer's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"


def main() -> int:
    problems = list(faults())
    if not problems:
        packages(sorted(path for path in DIST.iterdir() if path.suffix in (".gz", ".whl")))
        bill_of_materials()
    for problem in problems:
        print(f"make release: {problem}")
    return 1 if problems else 0


def faults(root: Path = ROOT) -> Iterator[str]:
    """What is not as a release wants it, each in one line."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    said = re.search(r'__version__ = "([^"]+)"', (root / "proxy/__init__.py").read_text())
    if said is None or said[1] != version:
        yield f"proxy/__init__.py says {said and said[1]}, pyproject.toml {version}"
    changelog = (root / "CHANGELOG.md").read_text()
    if not re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE
    ):
        yield f'CHANGELOG.md has no line "## [{version}] - YYYY-MM-DD"'
    unreleased = changelog.partition("## [Unreleased]\n")[2].partition("\n## [")[0]
    if unreleased.strip():
        yield "CHANGELOG.md still has entries under [Unreleased]"
    if not list((root / "dist").glob(f"fairlead_proxy-{version}.tar.gz")):
        yield f"dist/ has no sdist of {version}: make wheels"
    if not list((root / "dist").glob(f"fairlead_proxy-{version}-*manylinux*.whl")):
        yield f"dist/ has no wheel of {version} for manylinux: make wheels"
    yield from (
        f"{path.relative_to(root)} is of another version"
        for path in sorted((root / "dist").glob("fairlead_proxy-*"))
        if not path.name.startswith((f"fairlead_proxy-{version}-", f"fairlead_proxy-{version}."))
    )


def packages(paths: Sequence[Path]) -> None:
    """Have twine and check-wheel-contents look at them. SystemExit when they complain."""
    names = [str(path) for path in paths]
    _run("twine", "check", "--strict", *names)
    wheels = [name for name in names if name.endswith(".whl")]
    if wheels:
        _run("check_wheel_contents", *wheels)


def bill_of_materials() -> None:
    """`dist/fairlead-proxy.cdx.json`, CycloneDX: the versions that constraints.txt names of what
    `pip install` brings."""
    # Imported here: packaging is no part of what `faults` needs.
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = {
        canonicalize_name(line.partition("==")[0]): line.strip()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    names = set()
    pending = {canonicalize_name("fairlead-proxy")}
    while pending:
        name = pending.pop()
        names.add(name)
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending |= {canonicalize_name(requirement.name)} - names
    listed = DIST / "requirements.txt"
    listed.write_text("".join(f"{pinned[name]}\n" for name in sorted(names & pinned.keys())))
    bill = DIST / "fairlead-proxy.cdx.json"
    project = ("--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible")
    _run("cyclonedx_py", "requirements", *project, "--output-file", str(bill), str(listed))
    listed.unlink()
    components = json.loads(bill.read_text())["components"]
    print(f"{bill.name}: {len(components)} components")


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{module}: exit {done.returncode}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
