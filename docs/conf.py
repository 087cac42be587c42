"""The documentation as a site: `make docs` builds it with Sphinx into docs/_build/html.

The source is the whole checkout, so that every link between pages is the same on a forge and in the site. The contents are
those of docs/README.md: each of its sections becomes a part of the site's menu, in its order.
"""

import inspect
import re
from html import escape
from typing import Any

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

from spoolnode import __version__
from spoolnode.cli import main

project = "spoolnode"
author = "spoolnode contributors"
copyright = author  # Sphinx takes it by this name
version = release = __version__

extensions = [
    "myst_parser",  # the pages are Markdown
    "sphinx.ext.autodoc",  # python-reference.rst is made from the docstrings
]
root_doc = "docs/README"
include_patterns = ["*.md", "docs/*.md", "docs/*.rst", "bench/README.md"]
exclude_patterns = ["docs/_build", ".*", "node_modules"]

myst_heading_anchors = 4  # a heading has the anchor that the forge gives it
myst_fence_as_directive = ["mermaid"]
default_role = "code"  # docstrings write names in single backticks
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!spoolnode\.).*"),  # types of other projects: to look them up needs a network
    ("py:.*", r"spoolnode\..+\.[A-Z]"),  # type variables
]

html_theme = "furo"
html_title = f"spoolnode {version}"
html_extra_path = ["site"]  # index.html, which leads to the first page
html_static_path = ["static"]  # mermaid, so that the site asks nothing of other hosts
html_show_sourcelink = False

linkcheck_anchors_ignore_for_url = ["https://github.com/.*"]  # its pages make their anchors in the browser


def add_contents(_: Sphinx, name: str, source: list[str]) -> None:
    """Gives docs/README.md a hidden toctree for each of its sections, with the pages that the section links to first."""
    if name != root_doc:
        return
    for title, text in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", source[0], flags=re.M):
        pages = dict.fromkeys(re.findall(r"\]\(([\w./-]+\.(?:md|rst))\)", text))
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```\n"])


def add_commands(_: Sphinx, name: str, source: list[str]) -> None:
    """Gives docs/commands.md the help of each command."""
    if name == "docs/commands":
        with click.Context(main, info_name="spoolnode") as context:
            source[0] += "".join(_help(context, command) for command in main.list_commands(context))


def _help(above: click.Context, name: str) -> str:
    """The section of one command, and of those below it."""
    command = above.command.get_command(above, name)
    with click.Context(command, info_name=name, parent=above) as context:
        below = command.list_commands(context) if isinstance(command, click.Group) else []
        text = command.get_help(context)
        return f"\n## {context.command_path}\n\n```text\n{text}\n```\n" + "".join(_help(context, one) for one in below)


def read_docstring(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Makes fields of `Args:` and `Raises:`, and blocks of examples.

    The extension napoleon does the same, but takes "None: at once" in the docstring of an attribute for a type.
    """
    if name == "spoolnode.spool":  # its options stand in the docstring of the object's call
        lines += ["", *(inspect.getdoc(type(found).__call__) or "").split("\n")[1:]]
    for at in range(len(lines) - 1, 1, -1):  # a paragraph that is indented is an example
        if lines[at].startswith("    ") and not lines[at - 1] and not lines[at - 2].startswith("    "):
            lines[at:at] = ["::", ""]
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, found, options).lines()


class Diagram(Directive):
    """A diagram of ARCHITECTURE.md, which the reader's browser draws."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", f'<pre class="mermaid">{escape(chr(10).join(self.content))}</pre>', format="html")]


def add_mermaid(app: Sphinx, _name: str, _template: str, _context: dict[str, Any], page: nodes.document | None) -> None:
    """Has a page with diagrams load what draws them. Scripts, not modules: a browser loads them also from a file."""
    if page is not None and any('class="mermaid"' in raw.astext() for raw in page.findall(nodes.raw)):
        app.add_js_file("mermaid.tiny.js", loading_method="defer")
        app.add_js_file("diagrams.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("mermaid", Diagram)
    app.connect("html-page-context", add_mermaid)
    app.connect("source-read", add_contents)
    app.connect("source-read", add_commands)
    app.connect("autodoc-process-docstring", read_docstring)
    return {"parallel_read_safe": True}
