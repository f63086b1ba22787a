"""The report as Markdown, for a terminal, a repository or a chat; the pictures lie beside it."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.reporting.content import Cell, Section, Table
from rzero.escaping import markdown_cell, terminal_text


def render(*, title: str, sections: Sequence[Section]) -> str:
    blocks = [f"# {_inline(title)}"]
    for section in sections:
        blocks.append(
            f"{'##' if section.depth == 1 else '###' if _nested(sections) else '##'} {_inline(section.title)}"
        )
        blocks += _parts(section)
        blocks += [f"![{_inline(picture.alt)}]({picture.file})" for picture in section.pictures]
    return "\n\n".join(blocks) + "\n"


def body(section: Section) -> str:
    """A section without its heading and pictures."""
    return "\n\n".join(_parts(section))


def _parts(section: Section) -> list[str]:
    parts = [_inline(paragraph) for paragraph in section.paragraphs]
    for table in section.tables:
        parts += [_table(table), *([_inline(table.caption)] if table.caption else [])]
    return parts


def _nested(sections: Sequence[Section]) -> bool:
    return any(section.depth == 1 for section in sections)


def _inline(text: str) -> str:
    """Our own words; they may hold names from a config, so what ends a cell or opens a tag is still taken out."""
    return terminal_text(text).replace("|", r"\|").replace("<", "&lt;")


def _table(table: Table) -> str:
    names = [": ".join(filter(None, (group, column))) for group, columns in table.heads for column in columns]
    rows = [[text for cell in row for text in _spread(cell)] for row in table.rows]
    return markdown_table([_inline(name) for name in names], rows, numeric=table.numeric)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: bool = True) -> str:
    """Return a table of cells that are Markdown already. numeric: every column but the first is set flush right."""
    marks = ["---", *(["---:" if numeric else "---"] * (len(header) - 1))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, marks, *rows))


def _spread(cell: Cell) -> list[str]:
    text = markdown_cell(cell.text) if cell.model else _inline(cell.text)
    return [f"**{text}**" if cell.best else text, *[""] * (cell.span - 1)]
