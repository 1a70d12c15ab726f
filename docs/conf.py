"""The site: ``sphinx-build -W -b html docs site`` writes it (``pip install -e '.[docs]'``)."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "mllmrec"
author = "the authors of mllmrec"
copyright = "Apache-2.0"
version = release = import_module("mllmrec").__version__
language = "en"

extensions = [
    "myst_nb",  # pages in Markdown, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",  # the cards of the first page
    "repository",
]
exclude_patterns = ["_ext", "_static"]
default_role = "py:obj"  # a name in single backticks is a link where the name has an entry

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links such as data.md#captions-of-the-images
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": None}
nb_execution_mode = "off"  # tests run the notebooks
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "mllmrec"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
