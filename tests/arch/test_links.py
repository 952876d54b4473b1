"""Links between the project's own pages lead to a file that exists and a heading that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("README*.md"),
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        ROOT / "bench/README.md",
    ]
)
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def anchors(page: Path) -> Iterator[str]:
    """What GitHub makes of headings; of equal ones, all but the first get a number."""
    seen: dict[str, int] = {}
    for heading in HEADING.findall(CODE.sub("", page.read_text("utf-8"))):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        yield f"{slug}-{seen[slug]}" if seen[slug] else slug


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text("utf-8")))
    ours = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert not [link for link in ours if not leads_somewhere(page, link)]


def test_links_to_nowhere_are_seen() -> None:
    page = ROOT / "README.md"
    assert leads_somewhere(page, "docs/forwarding.md#whose-address-counts")
    assert not leads_somewhere(page, "docs/forwarding.md#whose-address-does-not")
    assert not leads_somewhere(page, "docs/no-such-page.md")
