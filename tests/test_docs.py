"""Links of the README and the docs lead somewhere, and so do their pictures."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

REPO = Path(__file__).parents[1]
PAGES = sorted([REPO / 'README.md', *(REPO / 'docs').glob('*.md')])
NAMES = [page.relative_to(REPO).as_posix() for page in PAGES]


def prose(page):
    """A page without its code."""
    text = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r'`[^`\n]*`', 'code', text)


def anchors(page):
    """What GitHub calls the headings of a page."""
    text = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r'^#+ +(.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = prose(page)
    targets = re.findall(r'\]\(([^()\s]*)\)', text)
    assert len(targets) == text.count(']('), 'a link has no end, or a space in it'
    for target in targets:
        if re.match(r'https?://', target):
            continue
        path, _, anchor = unquote(target).partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_pictures_are_on_a_page():
    shown = {Path(target).name for page in PAGES for target in re.findall(r'!\[[^]]*\]\(([^()]*)\)', page.read_text())}
    assert shown == {path.name for path in (REPO / 'docs' / 'images').iterdir()}
