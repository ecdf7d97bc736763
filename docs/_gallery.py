"""The gallery: every plot as a tutorial shows it, cut out of the stored output of the notebooks."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

PLOT = re.compile(r"\bcc\.pl\.(\w+)\(")


def pictures(tutorials: Path) -> dict[str, tuple[str, str, bytes]]:
    """For each plotting function the first cell that draws with it alone, or else with others: notebook, code, PNG."""
    found: dict[str, tuple[str, str, bytes]] = {}
    shared: dict[str, tuple[str, str, bytes]] = {}
    for notebook in sorted(tutorials.glob("*.ipynb")):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            images = [o["data"]["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            names = list(dict.fromkeys(PLOT.findall(source)))
            for name in names if images else []:
                kept = found if len(names) == 1 else shared
                kept.setdefault(name, (notebook.stem, source, base64.b64decode("".join(images[0]))))
    return shared | found


def write(tutorials: Path, docs: Path, names: list[str], firsts: dict[str, str]) -> None:
    """Write ``gallery.md`` and its pictures.

    Parameters
    ----------
    tutorials, docs
        Folders.
    names
        Plotting functions, in the order of the page.
    firsts
        First line of the docstring of each.

    Raises
    ------
    ValueError
        If a plot is in no tutorial.
    """
    shown = pictures(tutorials)
    if missing := [name for name in names if name not in shown]:
        msg = f"No tutorial draws {', '.join(missing)}: add it to one, with stored output."
        raise ValueError(msg)
    folder = docs / "gallery"
    folder.mkdir(exist_ok=True)
    lines = ["# Gallery", "", "Every plot, as a tutorial shows it. All take `ax=`, `show=` and `return_fig=`.", ""]
    for name in names:
        notebook, source, picture = shown[name]
        (folder / f"{name}.png").write_bytes(picture)
        call = next(line.strip().rstrip(";") for line in source.splitlines() if f"cc.pl.{name}(" in line)
        lines += [f"## {name.replace('_', ' ').capitalize()}", "", firsts[name], ""]
        lines += [f"![{firsts[name]}](gallery/{name}.png)", "", "```python", call, "```", ""]
        lines += [f"{{func}}`causcade.pl.{name}`, from the tutorial {{doc}}`tutorials/{notebook}`.", ""]
    (docs / "gallery.md").write_text("\n".join(lines), encoding="utf-8")
