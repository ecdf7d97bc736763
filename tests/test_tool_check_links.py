"""The link check of the documentation: what it calls dead is dead, and nothing else is."""

from __future__ import annotations

import runpy
from pathlib import Path

TOOL = Path(__file__).parent.parent / "tools" / "check_links.py"


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "template.html").write_text('<a href="{{ nowhere }}">x</a>')
    (tmp_path / "a b.html").write_text(
        '<h1 id="top-1"></h1><a href="sub/b.html#there"></a><a href="#top-1"></a><a href="https://x.org/y"></a><a href="mailto:a@b.c"></a>'
        '<img src="sub/none.png"><a href="sub/b.html#gone"></a><a href="sub"></a><a href="#"></a>'
    )
    (tmp_path / "sub" / "b.html").write_text(
        '<p id="there"></p><a href="../a%20b.html#top-1"></a><a href="c.html"></a>'
    )
    (tmp_path / "sub" / "index.html").write_text("")
    found = runpy.run_path(str(TOOL))["dead_links"](tmp_path)
    assert found == ["a b.html: sub/b.html#gone", "a b.html: sub/none.png", "sub/b.html: c.html"]
