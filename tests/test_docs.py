"""The pages hang together: every link leads somewhere, and the index has every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill_ray.study.reference import anchor

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def links(page: Path) -> list[str]:
    """The relative links of a page, outside of its code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if part:
            assert part in map(
                anchor, re.findall(r"^#+ (.*)$", target.read_text("utf-8"), flags=re.MULTILINE)
            ), link


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in links(index)}
    assert {page for page in index.parent.glob("*.md") if page != index} <= linked


def test_the_list_of_decisions_has_every_record() -> None:
    index = ROOT / "docs" / "decisions" / "README.md"
    linked = {(index.parent / link).resolve() for link in links(index)}
    assert {page for page in index.parent.glob("*.md") if page != index} <= linked
