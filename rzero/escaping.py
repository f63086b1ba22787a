"""One function per sink for text that a model wrote: what leaves this program is escaped where it leaves.

The text itself is stored as it is, with one exception that every sink shares: a lone surrogate (half of a UTF-16 pair,
from a broken byte-level token) cannot be encoded as UTF-8 and becomes U+FFFD.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Mapping

_SURROGATE = re.compile("[\ud800-\udfff]")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$&:^=\"'])")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_SLUG = re.compile(r"[^A-Za-z0-9._-]+")
# Names that Windows reserves whatever their extension, so that a run directory can be copied there.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}


def valid_unicode(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD; everything else, NUL included, is kept."""
    return _SURROGATE.sub("\ufffd", text)


def json_line(value: object) -> str:
    """One line of JSON, without its line end, that every JSON parser reads back.

    ASCII only, so U+2028, U+0085 and the like cannot break lines. Floats that JSON does not know become null.
    Raises TypeError for values that are not JSON (numbers, strings, lists, dicts, booleans, None).
    """
    return json.dumps(_json_value(value), ensure_ascii=True, allow_nan=False)


def _json_value(value: object) -> object:
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {_json_value(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return value


def csv_cell(text: str) -> str:
    """A quoted CSV field that no spreadsheet takes for a formula: those starts get an apostrophe in front."""
    text = valid_unicode(text).replace("\x00", "\ufffd")
    if text.lstrip(" ").startswith(_FORMULA_STARTS):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"'


def markdown_cell(text: str) -> str:
    """Text inside a cell of a Markdown table: no markup, no HTML, no formula, one line."""
    shown = " ".join(terminal_text(text).split())
    return _MARKDOWN.sub(lambda match: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[1], "\\" + match[1]), shown)


def html_text(text: str) -> str:
    """Text for HTML content or a quoted attribute. Control and direction characters are shown, not obeyed."""
    return html.escape(_visible(text, keep="\n\t"), quote=True)


def wandb_cell(text: str) -> str:
    """Text for a cell of a W&B table: what acts is shown, and the table's CSV export holds no formula.

    W&B shows strings of tables as text, so markup needs no escape there; lone surrogates would fail its upload.
    """
    shown = _visible(text, keep="\n\t")
    return "'" + shown if shown.lstrip(" ").startswith(_FORMULA_STARTS) else shown


def terminal_text(text: str) -> str:
    r"""Text for a log or a terminal, on one line: control, format and surrogate characters are written as `\x1b`."""
    return _visible(text, keep="")


def _visible(text: str, *, keep: str) -> str:
    """Replace characters that act instead of being seen (categories C* and line separators) by their escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_seen(character) or character in keep else _escape(character) for character in text)


def _is_seen(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")


def _escape(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def slug(text: str, *, max_chars: int = 64) -> str:
    """A name made from any text, safe as a file name and as a W&B artifact name: letters, digits, `.`, `_`, `-`.

    Never empty, never hidden, never a path, at most `max_chars` long. Different texts may give the same slug.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, got {max_chars}")
    plain = unicodedata.normalize("NFKD", text[: 8 * max_chars]).encode("ascii", "ignore").decode("ascii")
    name = _NOT_SLUG.sub("-", plain)
    name = re.sub(r"\.{2,}", ".", name).strip("-._")[:max_chars].rstrip("-._")
    if not name or name.split(".")[0].casefold() in _RESERVED:
        name = f"x-{name}".rstrip("-")[:max_chars]
    return name


def checked_name(name: str, *, max_chars: int = 64) -> str:
    """`name` itself if it is a safe file name. Raises ValueError otherwise: names from people are not rewritten."""
    if not _SAFE_NAME.fullmatch(name) or len(name) > max_chars or ".." in name or "--" in name:
        raise ValueError(
            f"{terminal_text(name[:80])!r} cannot be a name: use at most {max_chars} letters, digits, '.', '_', '-'"
        )
    if name.split(".")[0].casefold() in _RESERVED:
        raise ValueError(f"{name!r} cannot be a name: some systems reserve it")
    return name
