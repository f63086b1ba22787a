"""Every sink of model text, and every hostile text in every sink."""

import csv
import io
import json
import re
import unicodedata
from pathlib import Path

import pytest

from rzero import escaping

HOSTILE = Path(__file__).resolve().parents[3] / "shared" / "hostile"


def hostile_texts() -> list[str]:
    if not HOSTILE.exists():
        pytest.skip(f"{HOSTILE} is not on this machine")
    rows = [
        json.loads(line)
        for name in ("answers", "questions")
        for line in (HOSTILE / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    return [row["text"] if "text" in row else "".join(part * count for part, count in row["parts"]) for row in rows]


def test_json_lines_are_one_line_and_read_back() -> None:
    value = {"text": "a\u2028b\u0085\n\x00\ud800c", "number": float("nan"), "list": [1, "\udc00"], "none": None}
    line = escaping.json_line(value)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {
        "text": "a\u2028b\u0085\n\x00\ufffdc",
        "number": None,
        "list": [1, "\ufffd"],
        "none": None,
    }


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "|cmd"])
def test_csv_cells_are_no_formulas(text: str) -> None:
    assert escaping.csv_cell(text).startswith("\"'")


def test_csv_cells_read_back() -> None:
    assert next(csv.reader(io.StringIO(escaping.csv_cell('a,"b\nc'), newline=""))) == ['a,"b\nc']


def test_markdown_cells_hold_text_only() -> None:
    assert escaping.markdown_cell("a|b\n<b>`x`</b>") == "a\\|b\\n&lt;b&gt;\\`x\\`&lt;/b&gt;".replace("\\n", "\\\\x0a")


def test_html_and_terminal() -> None:
    assert escaping.html_text('<a href="x">&') == "&lt;a href=&quot;x&quot;&gt;&amp;"
    assert escaping.terminal_text("\x1b[2J\u202ea\nb") == "\\x1b[2J\\u202ea\\x0ab"


@pytest.mark.parametrize(
    ("text", "name"),
    [("../../etc/passwd", "etc-passwd"), ("a b", "a-b"), ("", "x"), ("...", "x"), ("con.txt", "x-con.txt"), ("é", "e")],
)
def test_slug(text: str, name: str) -> None:
    assert escaping.slug(text) == name


def test_names_are_refused_not_rewritten() -> None:
    assert escaping.checked_name("run-1.2_b") == "run-1.2_b"
    for name in ("..", "a/b", "~root", "con", "a\x00", "", "x" * 65, "-a", "s3://x"):
        with pytest.raises(ValueError, match="cannot be a name"):
            escaping.checked_name(name)
    with pytest.raises(ValueError, match="max_chars"):
        escaping.slug("a", max_chars=0)


def test_hostile_texts_are_harmless_in_every_sink() -> None:
    csv.field_size_limit(1 << 24)
    for text in hostile_texts():
        line = escaping.json_line(text)
        assert line.isascii()
        assert json.loads(line) == escaping.valid_unicode(text)
        cells = next(csv.reader(io.StringIO(escaping.csv_cell(text), newline=""), strict=True))
        assert len(cells) == 1
        assert cells[0].lstrip(" ")[:1] not in set("=+-@")
        assert not re.search(r"<[a-zA-Z/!]", escaping.html_text(text))
        assert "\n" not in escaping.markdown_cell(text)
        assert not any(unicodedata.category(character)[0] == "C" for character in escaping.terminal_text(text))
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", escaping.slug(text))
        escaping.html_text(text).encode("utf-8")
