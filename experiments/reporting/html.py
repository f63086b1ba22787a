"""The report as one HTML file: pictures inside, no script, nothing loaded from elsewhere.

The template is a file of this repository, and whatever it prints is escaped, so model text can only ever be its data.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.reporting.content import Section
from rzero.escaping import html_text

TEMPLATES = Path(__file__).parent / "templates"


def render(*, title: str, sections: Sequence[Section], pictures: Path) -> str:
    """`pictures` is the folder of the PNGs that the sections name."""
    names = {picture.file for section in sections for picture in section.pictures}
    data = {name: base64.b64encode((pictures / name).read_bytes()).decode("ascii") for name in names}
    return environment(TEMPLATES).get_template("report.html.j2").render(title=title, sections=sections, data=data)


def environment(folder: Path) -> Environment:
    """Templates of `folder`; whatever they print is escaped, and a name they do not know is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escaped,
    )


def _escaped(value: object) -> object:
    """Return text with control and direction characters made visible; autoescaping alone would let those through."""
    return Markup(html_text(value)) if isinstance(value, str) and not isinstance(value, Markup) else value
