"""Sphinx configuration. Builds without a network: ``make docs``."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

import anndata

from causcade import pl

# Types print as `anndata.AnnData`, the name users know, not as the private module that defines it.
anndata.AnnData.__module__ = "anndata"

# Notebooks live beside the docs, where people look for them; Sphinx reads copies.
HERE = Path(__file__).parent
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
shutil.copytree(HERE.parent / "tutorials", HERE / "tutorials", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))

sys.path.insert(0, str(HERE))
_gallery = import_module("_gallery")
first_lines = {name: (getattr(pl, name).__doc__ or "").strip().splitlines()[0] for name in pl.__all__}
_gallery.write(HERE.parent / "tutorials", HERE, list(pl.__all__), first_lines)

project = "causcade"
author = "causcade developers"
copyright = f"2026, {author}"
release = version = installed_version("causcade")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/**/_*", "**.ipynb_checkpoints"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}  # generated pages take the first
default_role = "literal"

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "DTypeLike", "Rng")}  # not spelled out
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks carry their output; `make tutorials` runs them
nb_output_stderr = "remove"
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_title = "causcade"
html_show_sourcelink = False
html_theme_options = {"show_toc_level": 2, "use_download_button": False}


def plain_aliases(*event: Any) -> tuple[str | None, str | None]:
    """Write an alias inside a union by its name; Sphinx shows the object that stands for it."""
    signature, returns = (text and re.sub(r"TypeAliasForwardRef\('([^']+)'\)", r"\1", text) for text in event[-2:])
    return signature, returns


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", plain_aliases)
