"""What README.md, docs/ and the comments say is true: numbers, links, anchors, limits (commands: test_commands.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from rzero.types import Question, Vote
from tests.experiments.small import config
from tests.test_architecture import LAYERS

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
AUTHORS = PROJECT / "docs" / "authors_code.md"
CODE = ("rzero", "evaluation", "experiments", "conf", "tests")


def names(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def tables(text: str) -> Iterator[list[list[str]]]:
    """Every Markdown table as its rows of cells; the line of dashes is left out."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()]
        yield [row for row in rows if set("".join(row)) - set("-: |")]


def anchors(text: str) -> set[str]:
    """What `#...` may name on a page: explicit anchors and headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    spelled = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return spelled | set(re.findall(r'<a id="([^"]+)"></a>', text))


def numbered() -> list[tuple[str, str, list[str], list[str]]]:
    """Rows of docs/method.md that state numbers: key, what it is, the overrides of each column, the cells."""
    found = []
    for header, *rows in tables((PROJECT / "docs" / "method.md").read_text(encoding="utf-8")):
        if header[1:2] == ["key"]:
            for what, key, *cells in rows:
                found.append((key.strip("`"), what, [text.strip("`") for text in header[2:]], cells))
    return found


def test_there_are_numbers_to_compare() -> None:
    assert len(numbered()) > 30


def documented(page: str) -> list[re.Pattern[str]]:
    """What the first columns of a page's tables name, `<anything>` standing for any text.

    Of `a/b`, `c` in one cell the second means a/c.
    """
    patterns = []
    for _, *rows in tables((PROJECT / "docs" / page).read_text(encoding="utf-8")):
        for first, *_ in rows:
            names = re.findall(r"`([^`]+)`", first)
            folder = names[0].rpartition("/")[0] if names and not names[0].endswith("/") else ""
            for name in names:
                full = name if "/" in name or not folder else f"{folder}/{name}"
                patterns.append(re.compile(re.sub("<[a-z]+>", ".+", re.escape(full).replace(r"\*", "[^/]*"))))
    return patterns


composed = cache(config)


@pytest.mark.parametrize(("key", "what", "columns", "cells"), numbered(), ids=[row[0] for row in numbered()])
def test_the_method_page_states_the_numbers_of_the_configuration(
    key: str, what: str, columns: list[str], cells: list[str]
) -> None:
    for column, cell in zip(columns, cells, strict=True):
        cfg = composed(column)
        parent, _, name = key.rpartition(".")
        assert name in (OmegaConf.select(cfg, parent) if parent else cfg), f"{key} is no key of {column}"
        value = OmegaConf.select(cfg, key)
        assert cell == ("null" if value is None else str(value)), f"{what}, {column}: change docs/method.md"


def test_the_layers_in_contributing_are_those_of_the_architecture() -> None:
    [rows] = [
        rows for rows in tables((PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")) if rows[0][0] == "layer"
    ]
    assert [set(re.findall(r"`(\w+)`", held)) for _, held in rows[1:]] == list(LAYERS)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        other = (page.parent / place).resolve() if place else page
        assert other.exists(), f"{target} does not exist"
        assert other.is_relative_to(PROJECT), f"{target} is outside of the repository"
        if anchor:
            assert anchor in anchors(other.read_text(encoding="utf-8")), f"{place or page.name} has no #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_files_that_pages_name_exist(page: Path) -> None:
    folders = "rzero|evaluation|experiments|conf|sweeps|tests|docs"
    for path in re.findall(rf"`((?:{folders})/(?:[\w./]*(?:/|\.\w+))?)`", page.read_text(encoding="utf-8")):
        assert (PROJECT / path).exists(), f"{path} does not exist"


def mentions(pattern: str, *, suffixes: tuple[str, ...] = (".py", ".yaml")) -> set[tuple[str, str]]:
    """File and matched text, for every match in files of the packages, conf and tests; () means any suffix."""
    found = set()
    for path in (path for folder in CODE for path in (PROJECT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and (not suffixes or path.suffix in suffixes):
            text = path.read_bytes().decode("utf-8", errors="replace")
            found |= {(names(path), match.group()) for match in re.finditer(pattern, text)}
    return found - {(names(Path(__file__)), text) for _, text in found}


def test_numbers_of_the_authors_defects_resolve() -> None:
    cited = {text for _, text in mentions(r"\b[RD][0-9]{1,2}\b")}
    assert {"R9", "D17"} <= cited
    assert not {number.lower() for number in cited} - anchors(AUTHORS.read_text(encoding="utf-8"))


def test_references_to_pages_resolve() -> None:
    """`docs/method.md#vote` in a comment; the files and anchors must exist."""
    references = {text for _, text in mentions(r"docs/[a-z_]+\.md(#[a-z0-9_-]+)?")}
    assert "docs/method.md#vote" in references
    for reference in references:
        place, _, anchor = reference.partition("#")
        assert (PROJECT / place).is_file(), reference
        if anchor:
            assert anchor in anchors((PROJECT / place).read_text(encoding="utf-8")), reference


def test_nothing_cites_a_document_outside_the_repository() -> None:
    outside = "SPE" + "C", "OFFICIAL" + "_BUGS"  # in pieces: a search for these words is to find nothing, this included
    assert mentions(rf"\b({'|'.join(outside)})\b", suffixes=()) == set()


def test_scaling_states_no_figure_that_its_commands_do_not_print() -> None:
    """What they print is compared where they are run (test_commands.py)."""
    text = (PROJECT / "docs" / "scaling.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n[^`]*```", text)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert set(re.findall(r"\d+\.\d+", prose)) <= set(re.findall(r"\d+\.\d+", "".join(blocks)))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_lines_are_short(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        assert len(line) <= 120 or line.startswith("|"), f"line {number} has {len(line)} characters"


def test_the_readme_is_short() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500


def test_the_reward_in_the_readme_pays(tmp_path: Path) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [node] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_study.py").write_text(code)
    spec = spec_from_file_location("study_of_the_readme", tmp_path / "my_study.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    named = yaml.safe_load(node)
    assert named.pop("_target_") == "my_study.Peak"
    vote = Vote(label="4", count=3, divisor=5, counts=(("4", 3),), answers=("4", "4", "4", None, None))
    paid = module.Peak(**named)([Question(text="2 + 2?", answer="4"), None], [vote, None])
    assert [reward.total for reward in paid] == [1.0, 0.0]
