"""`make release`: is what lies in `dist/` fit to be published as the version that the sources say?

Version, changelog, sdist, wheels, a bill of materials, the image where a container engine answers.
Nothing is signed, tagged or sent anywhere: that is the maintainer's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
ENGINES = ("docker", "podman")
NAMED = re.compile(r"\b(?:fairlead[: ]|appVersion: )(\d+\.\d+\.\d+)\b")
"""How pages and what is deployed name a version of ours."""


def main() -> int:
    problems = list(faults())
    if not problems:
        packages(sorted(path for path in DIST.iterdir() if path.suffix in (".gz", ".whl")))
        bill_of_materials()
        image()
    for problem in problems:
        print(f"make release: {problem}")
    return 1 if problems else 0


def faults(root: Path = ROOT) -> Iterator[str]:
    """What is not as a release wants it, each in one line."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    version = project["version"]
    if not project.get("urls"):
        yield "pyproject.toml has no [project.urls]: the pages that an index is to link to"
    said = re.search(r'__version__ = "([^"]+)"', (root / "proxy/__init__.py").read_text())
    if said is None or said[1] != version:
        yield f"proxy/__init__.py says {said and said[1]}, pyproject.toml {version}"
    for path in sorted((*root.glob("deploy/**/*.yaml"), *root.glob("docs/**/*.md"))):
        for other in set(NAMED.findall(path.read_text("utf-8"))) - {version}:
            yield f"{path.relative_to(root)} names {other}"
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
    if missing := names - pinned.keys() - {"fairlead-proxy"}:
        sys.exit(f"constraints.txt has no version of {', '.join(sorted(missing))}")
    listed = DIST / "requirements.txt"
    listed.write_text("".join(f"{pinned[name]}\n" for name in sorted(names & pinned.keys())))
    bill = DIST / "fairlead-proxy.cdx.json"
    project = ("--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible")
    _run("cyclonedx_py", "requirements", *project, "--output-file", str(bill), str(listed))
    listed.unlink()
    components = json.loads(bill.read_text())["components"]
    print(f"{bill.name}: {len(components)} components")


def image() -> None:
    """Have the first engine that answers build the image, and ask that for its version."""
    for engine in filter(shutil.which, ENGINES):
        if subprocess.run([engine, "info"], capture_output=True).returncode == 0:
            break
    else:
        print("the image is not tried: no container engine answers (docker, podman)")
        return
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    name = f"fairlead:{version}"
    _command(engine, "build", "-f", "deploy/Dockerfile", "-t", name, ".")
    said = _command(engine, "run", "--rm", name, "version").strip()
    if said != f"fairlead {version}":
        sys.exit(f"{name} says that it is {said}")
    print(f"{name}: built, and says so")


def _run(module: str, *arguments: str) -> None:
    _command(sys.executable, "-m", module, *arguments)


def _command(*command: str) -> str:
    """What it prints. SystemExit with all of it when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
