"""Writes the report as a single HTML file that includes style, script and figures and loads nothing from elsewhere.

page.html is the template; Jinja escapes every text that is inserted.
"""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastlt.core.files import write_file
from fastlt.report.compare.html_table import look, runs_of, signed
from fastlt.report.compare.model import Across


def write_page(across: Across, path: Path) -> None:
    """Writes the report to `path`. Figures are read from `across.figures`/SLUG.svg.

    The same report gives the same bytes. All texts in `across` are plain text.

    Raises:
        OSError: a figure cannot be read.
        NotWritten: `path` cannot be written.
    """
    loader = PackageLoader("fastlt.report.compare", ".")
    markup = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    figures = [across.figures / f"{drawing.slug}.svg" for drawing in across.drawings]
    text = markup.get_template("page.html").render(
        report=across,
        gaps=[(gap.name, gap.reason) for gap in across.gaps],
        pictures=[base64.b64encode(figure.read_bytes()).decode("ascii") for figure in figures],
        own=lambda name: Markup(loader.get_source(markup, name)[0]),  # our own style and script, not to be escaped
        look=look,
        runs_of=runs_of,
        signed=signed,
    )
    write_file(path, f"{text}\n")
