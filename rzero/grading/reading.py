r"""One reading for one answer: `read` turns text into a typed value (`rzero.grading.values`).

The usual conventions of mathematics decide: what stands in round or square brackets has an order, what stands bare or
in braces has none; words are words, not products of letters; a name in front of a value is kept as its name.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rzero.grading import normalise, regions
from rzero.grading.choices import option_letter
from rzero.grading.numeric import parse_number
from rzero.grading.structure import Parts, split_collection, split_name, split_top
from rzero.grading.units import is_everyday, split_units
from rzero.grading.values import (
    Assignment,
    Clock,
    Date,
    Expression,
    Listing,
    Matrix,
    Mixed,
    Named,
    Nothing,
    Number,
    Option,
    Quantity,
    Row,
    Value,
    Words,
    rebuilt,
)  # fmt: skip

_REMEMBERED = 8192  # texts, each at most as long as the grader allows
_MAX_NESTING = 5  # tuples inside sets inside names; deeper is a formula
_COUNTED = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty
"""
_NUMBER_WORDS = {word: number for number, word in enumerate(_COUNTED.split())}
_SHORT_WORDS = {"yes", "no", "odd", "even", "red", "true", "one", "two", "six", "ten"}
_NOTHING_FITS = re.compile(
    r"(?:there (?:is|are) )?no (?:real |such )?(?:solutions?|values?|roots?)|(?:the )?empty set|\\emptyset"
)
_STATED = re.compile(
    r"(?:\\text\{)?\s?(?:the )?(?:final )?(?:answer|result|solution)(?: is|:| =)\s?(?:\}\s?)?:?\s?(.+)", re.IGNORECASE
)
_ALL_REALS = re.compile(
    r"(?:all|any|every) real (?:numbers?|values?)|all reals|\\mathbb\s?\{?R\}?|all real numbers? x", re.IGNORECASE
)
_BASED = re.compile(r"\(?([0-9A-Fa-f]+)\)?_\{?\s?(?:\\text\{)?(\d+|[a-z]{3,})\}?\s?\}?")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::00)?\s?(?:\\text\{)?\s?(?:([ap])\.?\s?m\.?)?\s?\}?", re.IGNORECASE)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<month>jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*\.?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<year>\d{{4}}))?",
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? (?P<year>\d{{4}}))?",
    )
]
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_PLAIN_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_FUNCTION_WORDS = {"sin", "cos", "tan", "log", "exp", "max", "min", "gcd", "lcm", "mod", "text"}
_CONDITIONS = "for|where|if|when|whenever|with|such that|given|as long as|provided"
_QUALIFIER = re.compile(
    rf",?\s?(?:\\text\{{\s?,?\s?(?:{_CONDITIONS})\b.*|(?<![a-zA-Z])(?:for (?:any|all|every|some|each)|where|such that) "
    r".*|,\s?[a-zA-Z]\s?\\in(?![a-zA-Z]).*|\\(?:forall|quad\s?\\forall)(?![a-zA-Z]).*)$",
    re.DOTALL,
)
_MATRIX = re.compile(
    r"[(\[]?\s?\\begin\{([pbB]?matrix|array)\}(?:\s?\{[lcr|\s]*\})?(.*)\\end\{\1\}\s?[)\]]?", re.DOTALL
)
_ANGLED = re.compile(r"\\langle(?![a-zA-Z])([^,]*,.*)\\rangle", re.DOTALL)
_THOUSANDS = re.compile(r"^[^,]*?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])[^,]*$")
_FUNCTION_HEAD = re.compile(r"[a-zA-Z]?\s?\(\s?[a-zA-Z]\s?\)")
_WORD_NAME = re.compile(r"(?:\\text\{[^{}]*\}|[a-zA-Z]{4,}|[a-zA-Z]+ [a-zA-Z ]+)")


@lru_cache(maxsize=_REMEMBERED)
def cleaned(text: str) -> str:
    """`rzero.grading.normalise.clean`, remembered."""
    return normalise.clean(text)


@lru_cache(maxsize=_REMEMBERED)
def read(text: str) -> Value:
    """The value that an answer denotes, its units not yet looked up."""
    return _read(cleaned(text), _MAX_NESTING)


def _read(text: str, depth: int) -> Value:
    if not text:
        return Nothing()
    if (number := parse_number(text)) is not None:
        return number
    if depth == 0:
        return Expression(text)
    for rule in _RULES:
        value = rule(text, depth - 1)
        if value is not None:
            return value
    return Expression(text)


def _letter(text: str, depth: int) -> Value | None:
    letter = option_letter(text)
    if letter is None or re.match(r"\(?[A-Z]\)?\s?(?:[-+=^*!]|\\(?:c[ua]p|times|cdot|in)(?![a-zA-Z]))", text):
        return None
    return Option(letter)


def _time(text: str, depth: int) -> Value | None:
    found = _CLOCK.fullmatch(text)
    if found is None or not (found[2] or found[3]) or int(found[1]) > 24 or int(found[2] or 0) > 59:
        return None
    return Clock(int(found[1]), int(found[2] or 0), f"{found[3].lower()}m" if found[3] else None)


def _day(text: str, depth: int) -> Value | None:
    plain = re.sub(r"\\text\{([^{}]*)\}|\^\{([a-z]*)\}", r"\1\2", text).strip()
    for pattern in _DATES:
        if (found := pattern.fullmatch(plain)) and 1 <= int(found["day"]) <= 31:
            month = _MONTHS.index(found["month"][:3].lower()) + 1
            return Date(month, int(found["day"]), int(found["year"]) if found["year"] else None)
    return None


def _based(text: str, depth: int) -> Value | None:
    """`4343_6` is not 4343: in another base only the digits decide."""
    found = _BASED.fullmatch(text)
    if found is None or not any(digit.isdigit() for digit in found[1]):
        return None
    base = _NUMBER_WORDS.get(found[2], found[2])
    return Words(f"{found[1].upper()}_{base}")


def _words(text: str, depth: int) -> Value | None:
    whole = _WHOLE_TEXT.fullmatch(text)
    plain = " ".join((whole[1] if whole else text).split()).casefold().strip(" .")
    if _NOTHING_FITS.fullmatch(plain):
        return Listing(())
    if whole and (plain[:1].isdigit() or plain[:2] in _NUMBER_STARTS) and not normalise.is_prose(text):
        return _read(whole[1].strip(), depth)
    if plain in _NUMBER_WORDS:
        return parse_number(str(_NUMBER_WORDS[plain]))
    sentence = [word for word in _PLAIN_WORD.findall(plain) if word not in _FUNCTION_WORDS]
    # two words and no formula: a phrase
    is_phrase = len(sentence) > 1 and plain[:1].isalpha() and not re.search(r"[=<>\\]", plain)
    if normalise.is_prose(text) or plain in _SHORT_WORDS or is_phrase:
        return Words(plain)
    return None


_NUMBER_STARTS = {sign + digit for sign in "-+$(." for digit in "0123456789"}


def _stated(text: str, depth: int) -> Value | None:
    """`The answer is 460` in the box itself."""
    found = _STATED.fullmatch(text)
    return _read(found[1].removesuffix("}").strip(), depth) if found else None


def _set_of_reals(text: str, depth: int) -> Value | None:
    plain = " ".join((whole[1] if (whole := _WHOLE_TEXT.fullmatch(text)) else text).split())
    if _ALL_REALS.fullmatch(plain):
        return regions.ALL
    return regions.read_region(plain, lambda part: _read(part, depth))


def _qualified(text: str, depth: int) -> Value | None:
    """`x + c \\text{ for any real } c` is x + c; two conditions make a definition by cases, which stays whole."""
    if "\\begin" in text or len(re.findall(rf"(?:{_CONDITIONS})\b", text)) > 1:
        return None
    found = _QUALIFIER.search(text)
    qualified = text[: found.start()].strip(" ,") if found else ""
    return _read(qualified, depth) if qualified and "\\in " not in qualified else None


def _angled(text: str, depth: int) -> Value | None:
    """A vector in angle brackets is written with round ones as well."""
    found = _ANGLED.fullmatch(text)
    return _read(f"({found[1].strip()})", depth) if found else None


def _several(text: str, depth: int) -> Value | None:
    """A bare list: values, or the values of several unknowns."""
    if _THOUSANDS.match(text) and not re.search(r"\\text\{\s?,?\s?(?:and|or)\b", text):
        return None
    parts = split_collection(text)
    if parts is None or parts.brackets:
        return None
    groups = split_top(text, ";") or []
    if len(groups) > 1 and all("," in group for group in groups):  # `p = 5, q = 2; p = 7, q = 2`
        return Listing(tuple(_read(group, depth) for group in groups))
    return _list_of(parts, depth)


def _list_of(parts: Parts, depth: int) -> Value:
    named = [split_name(item) for item in parts.items]
    pairs = [(_name(pair[0]), _read(pair[1], depth)) for pair in named if pair is not None]
    unknowns = list(dict.fromkeys(name for name, _ in pairs))
    if len(pairs) == len(named) and len(unknowns) > 1:
        width = len(unknowns)
        rows = [tuple(pairs[start : start + width]) for start in range(0, len(pairs), width)]
        if len(rows) > 1 and all([name for name, _ in row] == unknowns for row in rows):
            return Listing(tuple(Assignment(row) for row in rows))  # `p = 5, q = 2 and p = 7, q = 2`
        return Assignment(tuple(pairs))
    if len(pairs) == len(named) or (named[0] and len(pairs) == 1):  # one name for all: `n = 1, 3, 5`
        texts = [pair[1] if pair else item for pair, item in zip(named, parts.items, strict=True)]
        listing = Listing(tuple(_read(text, depth) for text in texts))
        name = pairs[0][0]
        return Named(name, listing, ", ".join(parts.items)) if name else listing
    items = [_read(item, depth) for item in parts.items]
    numbers = {item.value if isinstance(item, Number) else None for item in items}
    is_one = len(items) == 1 or (len(numbers) == 1 and None not in numbers)  # `3/2 or 1.5`
    return items[0] if is_one else Listing(tuple(items), braces=bool(parts.brackets))


def _named(text: str, depth: int) -> Value | None:
    pair = split_name(text)
    if pair is None:
        return None
    name, value = _name(pair[0]), _read(pair[1], depth)
    unknowns = split_top(name[1:-1], ",") if name.startswith("(") and name.endswith(")") else None
    if unknowns and len(unknowns) > 1 and isinstance(value, Row) and len(value.items) == len(unknowns):
        return Assignment(tuple(zip(unknowns, value.items, strict=True)))
    return Named(name, value, text) if name else value


def _name(text: str) -> str:
    """One spelling of a name: function heads are `y`, and words say what is asked rather than name an unknown: ""."""
    if _FUNCTION_HEAD.fullmatch(text):
        return "y"
    return "" if _WORD_NAME.fullmatch(text) else normalise.key(text)


_PART = r"(\d+(?:\.\d+)?)\s?(?:\\text\{)?\s?([a-zA-Z]{1,12})\s?\}?"
_MIXED = re.compile(
    rf"{_PART}\s?(?:,|\\text\{{\s?and\s?\}}|and(?![a-z]))?\s?{_PART}(?:\s?(?:,|and(?![a-z]))?\s?{_PART})?"
)


def _measured(text: str, depth: int) -> Value | None:
    if found := _MIXED.fullmatch(text):  # `5 feet 3 inches`
        groups = [group for group in found.groups() if group]
        parts = [(_read(number, depth), name) for number, name in zip(groups[::2], groups[1::2], strict=True)]
        if all(is_everyday(name) or "\\text" in text for _, name in parts):
            return Mixed(tuple(Quantity(value, ((name, 1),)) for value, name in parts))
    split = split_units(text)
    if split is None:
        return None
    value_text, scale, units = split
    value = scaled(_read(value_text, depth), scale)
    return Quantity(value, units) if units else value


def scaled(value: Value, scale: int) -> Value:
    """A value times a scale word (`6 million`)."""
    match value:
        case _ if scale == 1:
            return value
        case Number():
            return Number(value.value * scale, percent=value.percent)
        case Expression():
            return Expression(f"{scale} \\cdot ({value.tex})")
        case _:
            return rebuilt(value, lambda inner: scaled(inner, scale))


def _bracketed(text: str, depth: int) -> Value | None:
    if found := _MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip()]
        if rows and "\\begin" not in found[2]:
            return Matrix(tuple(tuple(_read(entry.strip(), depth) for entry in row.split("&")) for row in rows))
        return None
    if re.fullmatch(r"\\?\{\s?\\?\}", text):
        return Listing(())
    parts = split_collection(text)
    if parts is None or not parts.brackets:
        return None
    if parts.brackets == "{}":
        return _list_of(parts, depth)
    return Row(tuple(_read(item, depth) for item in parts.items), parts.brackets)


# the first that knows what it sees decides
_RULES = (
    _letter, _time, _day, _based, _stated, _set_of_reals, _words, _qualified, _angled, _several, _named, _measured,
    _bracketed,
)  # fmt: skip
