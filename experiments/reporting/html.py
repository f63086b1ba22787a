"""The report as one HTML file: pictures inside, no script, nothing loaded from elsewhere.

The template is a file of this repository and is rendered with autoescaping, so model text can only ever be its data.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.reporting.content import Section
from experiments.reporting.visible import visible

TEMPLATES = Path(__file__).parent / "templates"


def render(*, title: str, sections: Sequence[Section], pictures: Path) -> str:
    """`pictures` is the folder of the PNGs that the sections name."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    names = {picture.file for section in sections for picture in section.pictures}
    data = {name: base64.b64encode((pictures / name).read_bytes()).decode("ascii") for name in names}
    return environment.get_template("report.html.j2").render(title=title, sections=sections, data=data)
