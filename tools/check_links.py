"""Find dead links inside built HTML pages: files that are not there, and anchors that no page has.

    python tools/check_links.py docs/_build/html

Links to other sites are left alone: the documentation is built without a network. (LinkChecker does the same in twenty times the time, and
cannot read private folders when it runs as root.)
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what a tag names and where it points."""
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ("href", "src") and value is not None:
                self.links.add(value)


def _pages(folder: Path) -> list[Path]:
    """Pages that people read; themes keep templates beside their scripts."""
    return [file for file in sorted(folder.rglob("*.html")) if "_static" not in file.relative_to(folder).parts]


def dead_links(folder: Path) -> list[str]:
    """Links of all pages in a folder that lead nowhere, as text."""
    pages = {file.resolve(): Page(file) for file in _pages(folder)}
    found = []
    for file, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (target in pages and anchor not in pages[target].anchors):
                found.append(f"{file.relative_to(folder.resolve())}: {link}")
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    dead = dead_links(folder)
    print("\n".join(dead) or f"no dead internal link in {len(_pages(folder))} pages")
    sys.exit(bool(dead))
