"""Characters that would act instead of being read, made visible."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """Control, format (bidi, zero width), surrogate and private characters as `\\uXXXX`; newlines and tabs stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else f"\\u{ord(c):04x}" for c in text)
