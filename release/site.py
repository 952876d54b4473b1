"""Hooks of mkdocs: what the site has beside the pages of `docs/`, and links that lead out of these.

README is the first page; CONTRIBUTING, CHANGELOG and the list of decisions are pages; the manual
page, the JSON Schema and files of the repository that pages link to are published with them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from markdown.extensions.toc import slugify_unicode
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "deploy/man/fairlead.1"
ADDED = {
    "README.md": "index.md",
    "README.zh-CN.md": "zh/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bench/README.md": "how-fast.md",
}
"""Pages that lie beside `docs/`, and what they are called in the site."""
FIRST = ("README.md", "pyproject.toml")
"""Files that stand for the folder they are in; where there are none, any does."""
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
API = {
    "proxy.discovery": "Discovery as a library",
    "proxy.register": "Registering from Python",
    "proxy.filters.base": "Filters",
    "proxy.filters.message": "Requests and answers as filters see them",
    "balancers.base": "Balancers",
    "proxy.registry.base": "Registries",
    "proxy.health.base": "Checks",
    "proxy.testing.fixtures": "Fixtures of pytest",
}


def on_config(config: Any) -> Any:
    """Have headings of every language lead to a place of their own, as in the repository."""
    config["mdx_configs"]["toc"]["slugify"] = slugify_unicode
    return config


def on_files(files: Files, config: Any) -> Files:
    def add(name: str, content: str | bytes) -> None:
        files.append(File.generated(config, name, content=content))

    for source, name in ADDED.items():
        add(name, (ROOT / source).read_text("utf-8"))
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))
    titles = [(path.name, path.read_text("utf-8").partition("\n")[0][2:]) for path in decisions]
    rows = "".join(f"* [{title}]({name})\n" for name, title in titles)
    add("decisions/index.md", f"# Decisions\n\n{rows}")
    blocks = "".join(f"## {title}\n\n::: {module}\n\n" for module, title in API.items())
    add("reference.md", f"# Reference of the Python API\n\n{blocks}")
    add("fairlead.1", MANUAL.read_bytes())
    add("manual.md", f"# Manual page\n\n[fairlead.1](fairlead.1)\n\n```\n{_manual()}\n```\n")
    command = [sys.executable, "-m", "proxy", "schema"]
    add("proxy.schema.json", subprocess.run(command, capture_output=True, check=True).stdout)
    for name in sorted(_linked(files)):
        add(name, (ROOT / name.removeprefix("source/")).read_bytes())
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Have links lead to where their targets are in the site."""
    uri: str = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        target = _target(uri, link[2])
        if target is None:
            return link[0]
        return f"{link[1]}{relpath(target, dirname(uri) or '.')}{link[3] or ''}{link[4]}"

    return LINK.sub(moved, markdown)


def _target(uri: str, link: str) -> str | None:
    """Where a link of a page leads in the site; None if it is none of the repository's."""
    if re.match(r"[a-z]+:", link):
        return None
    sources = {name: source for source, name in ADDED.items()}
    place = normpath(join(dirname(sources.get(uri, f"docs/{uri}")), link))
    if place in ADDED:
        return ADDED[place]
    if place == "docs/decisions":
        return "decisions/index.md"
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    path = ROOT / place
    if path.is_dir():
        names = sorted(one.name for one in path.iterdir() if one.is_file())
        place = f"{place}/{next(n for n in (*FIRST, *names) if n in names)}"
    return f"source/{place}"


def _linked(files: Files) -> set[str]:
    """Files of the repository that pages link to, as the site calls them."""
    return {
        target
        for file in files
        if file.src_uri.endswith(".md")
        for link in LINK.finditer(file.content_string)
        if (target := _target(file.src_uri, link[2])) and target.startswith("source/")
    }


def _manual() -> str:
    """The manual page as text; as its source, where there is no `man`."""
    if not shutil.which("man"):
        return MANUAL.read_text("utf-8")
    command = ["man", "--local-file", str(MANUAL)]
    environ = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=environ, capture_output=True, text=True).stdout.strip()
