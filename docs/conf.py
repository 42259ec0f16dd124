# SPDX-License-Identifier: MIT
"""How the site is built from these pages: `make site`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from functools import cache
from typing import Any

import bitwright

project = "Bitwright"
author = "The Bitwright authors"
copyright = author
release = version = bitwright.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

# Pages
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 4  # links to a heading of another page are checked
highlight_language = "text"  # a block without a language holds commands
linkcheck_anchors = False

# Notebooks: executed when they are built; an error in one fails the build.
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_in_temp = True  # they write files
nb_execution_raise_on_error = True
nb_merge_streams = True

# Reference
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]
nitpick_ignore_regex = [("py:.*", r"(?!bitwright\.).*")]  # what other libraries document, and type variables

# Looks
html_theme = "furo"
html_title = f"Bitwright {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]


@cache
def public_names() -> dict[str, str]:
    """Where objects of ours are documented, by where they are defined: bitwright.graph.graph.Graph is bitwright.graph.Graph."""
    found: dict[str, str] = {}
    for package in pkgutil.iter_modules(bitwright.__path__, "bitwright."):
        module = importlib.import_module(package.name)
        for name in getattr(module, "__all__", ()):
            item = getattr(module, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                found.setdefault(f"{item.__module__}.{item.__qualname__}", f"{module.__name__}.{name}")
    return found


def front_names() -> str:
    """A table of what can be imported from `bitwright` itself."""
    rows = []
    for name in bitwright.__all__:
        item = getattr(bitwright, name)
        target = public_names().get(f"{item.__module__}.{item.__qualname__}") if hasattr(item, "__qualname__") else None
        if target is not None:
            first = inspect.cleandoc(item.__doc__).partition("\n\n")[0].replace("\n", " ")
            rows.append(f"| {{py:obj}}`{name} <{target}>` | {first} |")
    return "\n".join(["| Name | What it is |", "| --- | --- |", *rows])


myst_substitutions = {"front_names": front_names()}


def find_public(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Resolve a reference to the place where an object is defined, as annotations have it; what is not public is plain text."""
    defined = str(node.get("reftarget"))
    if node.get("refdomain") != "py" or not defined.startswith("bitwright."):
        return None
    public = public_names().get(defined)
    if public is not None:
        return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    module, _, name = defined.rpartition(".")
    return contnode if hasattr(importlib.import_module(module), name) else None


_CODE = re.compile(r"(`[^`]*`)")


def escape(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Take bars and stars of formulas as they stand: docstrings are plain text with code in backticks."""
    session = False
    for number, line in enumerate(lines):
        session = line.lstrip().startswith(">>>") or (session and bool(line.strip()))
        if not session:
            parts = _CODE.split(line)
            parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", find_public)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before sections are read
