r"""Units behind a value: which words they are, and what they measure.

Names are split off by form alone. Their meaning comes from a table of names (pint's, asked in the workers); here stand
only the ones it lacks or holds as decimals: angles, money, temperatures with a zero of their own. A word that nobody
knows (`5 \text{ apples}`) says what is counted, which the question has fixed: it carries no meaning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from rzero.grading.numeric import parse_number
from rzero.grading.values import Expression, Listing, Measure, Mixed, Number, Quantity, Units, Value, rebuilt


def _measures(dimension: str, sizes: Mapping[str, tuple[Fraction | int, int]]) -> dict[str, Measure]:
    return {
        name: Measure(((dimension, 1),), Fraction(factor), pi_power)
        for names, (factor, pi_power) in sizes.items()
        for name in names.split()
    }


OWN = {
    **_measures(
        "angle",
        {
            "degree degrees deg degs": (1, 0), "radian radians rad rads": (180, -1),
            "turn turns revolution revolutions rev revs": (360, 0), "gradian gradians": (Fraction(9, 10), 0),
        },
    ),
    **_measures("dollar", {"dollar dollars usd bucks": (1, 0), "cent cents \u00a2": (Fraction(1, 100), 0)}),
    **_measures("euro", {"euro euros eur \u20ac": (1, 0)}),
    **_measures("sterling", {"sterling gbp \u00a3": (1, 0), "pence": (Fraction(1, 100), 0)}),
    **_measures("yen", {"yen jpy \u00a5": (1, 0)}),
    **_measures("rupee", {"rupee rupees inr rs \u20b9": (1, 0)}),
    **_measures("celsius", {"celsius centigrade degreecelsius": (1, 0)}),
    **_measures("fahrenheit", {"fahrenheit degreefahrenheit": (1, 0)}),
}  # fmt: skip
_SCALES = {
    "hundred": 100, "hundreds": 100, "thousand": 1000, "thousands": 1000, "million": 10**6, "millions": 10**6,
    "billion": 10**9, "billions": 10**9, "trillion": 10**12, "trillions": 10**12, "dozen": 12, "dozens": 12,
    "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7,
}  # fmt: skip
# Behind a number without \text these are units; any other short word would be a product of variables (5m, 2ab).
_EVERYDAY_NAMES = """
    mm cm km ft yd mi mg kg lb lbs oz hr hrs sec secs min mins yr yrs ml mL mph kph km/h m/s rad deg inch inches feet
    foot yard yards mile miles meter meters metre metres centimeter centimeters centimetre centimetres millimeter
    millimeters kilometer kilometers kilometre kilometres gram grams kilogram kilograms pound pounds ounce ounces second
    seconds minute minutes hour hours day days week weeks month months year years liter liters litre litres gallon
    gallons dollar dollars cent cents euro euros degree degrees radian radians unit units square cubic sq kWh kW Hz kHz
    MHz GHz kPa kJ kN eV keV MeV GeV mol ohm ohms volt volts watt watts joule joules newton newtons pascal
    pascals kelvin
"""
_EVERYDAY = {*_EVERYDAY_NAMES.split(), "\u00a2", "\u20ac"}
_NO_UNIT_NAMES = """
    and or if for when where with then since is are the of not no to in as by mod such that
    sin cos tan cot sec csc log ln exp max min gcd lcm det
"""
_NO_UNITS = set(_NO_UNIT_NAMES.split())
_ORDINAL = re.compile(r"^(\d+)\s?\^?\s?\{?\s?(?:\\text\{)?\s?(?:st|nd|rd|th)\s?\}?\s?\}?(?:\s?\\text\{[^{}]*\})?$")
_MONEY = re.compile(r"^(?P<sign>-?)(?:US)?(?P<sign2>\\\$|[\u20ac\u00a3\u00a5\u20b9])\s?(?P<rest>[\d.].*)$")
_DEGREES = re.compile(r"^(?P<value>.*[^\s^])\s?\^\\circ\s?(?P<scale>(?:\\text\{)?\s?[CF]\s?\}?)?$")
_TEXT_START = re.compile(r"\\frac\s?\{\s?\\text\{|(?:\\mu|\\Omega|\\AA)?\s?\\text\{|\\(?:Omega|AA)(?![a-zA-Z])")
_BARE = re.compile(
    r"^(?P<value>.*?(?:[\d})]|\\pi|\\infty))(?P<blank>\s?)(?P<unit>(?:\\mu\s?)?[a-zA-Z\u00a2\u20ac][a-zA-Z ./^{}\d-]*)$"
)
# Letters that are units in a quotient or behind a prefix only: `3 m/s`, `5\\mu m`.
_QUOTIENT = re.compile(r"[kcm]?[mgLJN]\s?/\s?(?:s|h|hr|min|sec|L|m|cm|mL|kg|mol)(?:\^?\{?[23]\}?)?|\\mu\s?[mgsFCL]")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_TOKEN = re.compile(
    r"\^?\s?\{?(-?\d+)\}?|([a-zA-Z\u00b5\u2126\u00c5$\u20ac\u00a3\u00a5\u20b9\u00a2\u00b0]+)|(/|\()|(\))"
)
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_RAISED = {"squared": 2, "cubed": 3}
_FILLERS = {"a", "an", "the", "of", "each"}
_MAX_TAIL = 80


def split_units(cleaned: str) -> tuple[str, int, Units] | None:
    r"""(value, scale, units) of `12 \text{ cm}`, `6 million dollars`, `3^{\text{rd}}`; None without unit and scale."""
    if ordinal := _ORDINAL.match(cleaned):
        return ordinal[1], 1, ()
    if found := _MONEY.match(cleaned):
        sign = "dollar" if found["sign2"] == "\\$" else found["sign2"]
        value, scale, _ = split_units(found["rest"]) or (found["rest"], 1, ())
        return found["sign"] + value, scale, ((sign, 1),)
    if found := _DEGREES.match(cleaned):
        letter = (found["scale"] or "").replace("\\text", "").strip("{} ")
        name = {"C": "celsius", "F": "fahrenheit"}.get(letter, "degree")
        is_angle_of_function = _FUNCTION.search(found["value"])  # `\\sin 30^\\circ` is a number
        return None if is_angle_of_function or not _balanced(found["value"]) else (found["value"], 1, ((name, 1),))
    start = _text_start(cleaned)
    if start:
        return _split_tail(cleaned[:start].strip(), cleaned[start:])
    if (found := _BARE.match(cleaned)) and _is_bare_unit(found["value"], found["blank"], found["unit"]):
        return _split_tail(found["value"].strip(), found["unit"])
    return None


def _text_start(text: str) -> int:
    r"""Where a tail of units in \text begins, outside all braces and behind a value; 0 if it does not."""
    for found in _TEXT_START.finditer(text):
        before = text[: found.start()].rstrip()
        if _balanced(before):
            return found.start() if before and (before[-1].isalnum() or before[-1] in ")}]!.") else 0
    return 0


def _is_bare_unit(value: str, blank: str, unit: str) -> bool:
    if _QUOTIENT.fullmatch(unit) and parse_number(value) is not None and (blank or unit.startswith("\\mu")):
        return True
    words = re.split(r"[ /^.\d{}-]+", unit.replace("\\mu", "").strip())
    first = words[0]
    if not _balanced(value) or (first.casefold() in _NO_UNITS and first not in _EVERYDAY):
        return False
    if first in _EVERYDAY or first.casefold() in _EVERYDAY or first.casefold() in _SCALES:
        return all(len(word) != 1 or "/" in unit or "per" in words for word in words[1:] if word)
    return (
        bool(blank) and len(first) > 3 and parse_number(value) is not None and all(len(w) > 2 for w in words[1:] if w)
    )


def _split_tail(value: str, tail: str) -> tuple[str, int, Units] | None:
    if len(tail) > _MAX_TAIL or not value:
        return None
    plain = re.sub(r"\\frac\s?\{(.*)\}\s?\{(.*)\}", r"\1/(\2)", tail)
    plain = re.sub(r"\\mu\s?(?:\\text\{)?\s?", "\u00b5", plain).replace("\\Omega", "ohm").replace("\\AA", "angstrom")
    plain = re.sub(r"\\text|\\cdot|\\times", " ", plain).replace("^\\circ", "degree").replace("\\$", "dollar ")
    if "\\" in plain:
        return None
    words = re.findall(r"[a-zA-Z]+", plain)
    if words and words != ["in"] and words[0].casefold() in _NO_UNITS and words[0] not in _EVERYDAY:
        return None
    scale = 1
    while words and (factor := _SCALES.get(words[0].casefold())):
        scale *= factor
        plain = plain.partition(words.pop(0))[2]
    return value, scale, _units(plain)


def _units(plain: str) -> Units:
    """The names and powers in `m/s^2`, `square miles`, `miles per hour`; words between them are kept as names too."""
    powers: Counter[str] = Counter()
    below, inside, upcoming, last = False, False, 1, ""
    for number, word, opener, closer in _TOKEN.findall(plain):
        if number and last:
            powers[last] *= int(number)
        elif word.casefold() in _RAISED and last:
            powers[last] *= _RAISED[word.casefold()]
        elif word.casefold() in _POWERS:
            upcoming = _POWERS[word.casefold()]
        elif opener == "/" or word.casefold() == "per":
            below, inside = True, False
        elif opener == "(":
            inside = below
        elif closer:
            below = inside = False
        elif word and word.casefold() not in _FILLERS:
            last = "dollar" if word == "$" else "degree" if word == "\u00b0" else word
            powers[last] += -upcoming if below else upcoming
            upcoming, below = 1, inside
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def is_everyday(name: str) -> bool:
    """Whether a word behind a number is a unit even without \\text."""
    return name in _EVERYDAY


def names(value: Value) -> set[str]:
    """The unit names in a value whose meaning has to be looked up."""
    found: set[str] = set()

    def visit(inner: Value) -> Value:
        if isinstance(inner, Mixed):
            for part in inner.parts:
                visit(part)
        if isinstance(inner, Quantity):
            found.update(name for name, _ in inner.units if name.casefold() not in OWN)
        return rebuilt(inner, visit)

    visit(value)
    return found


def resolve(value: Value, known: Mapping[str, Measure | None]) -> Value:
    """`value` with every unit measured. `known` holds what `names` asked for; a unit of unknown names goes."""
    if isinstance(value, Mixed):
        return _summed(tuple(resolve(part, known) for part in value.parts))
    if not isinstance(value, Quantity):
        return rebuilt(value, lambda inner: resolve(inner, known))
    measure = _measure(value.units, known)
    inner = resolve(value.value, known)
    return inner if measure is None or not measure.dimension else _distributed(inner, replace(value, measure=measure))


def _distributed(value: Value, unit: Quantity) -> Value:
    """`value` in the unit of `unit`: of a tuple or list each item that is a number or formula and has no unit."""
    if isinstance(value, Number | Expression):
        return replace(unit, value=value)
    return value if isinstance(value, Quantity) else rebuilt(value, lambda inner: _distributed(inner, unit))


def _summed(parts: tuple[Value, ...]) -> Value:
    """`5 feet 3 inches` as one length in feet; parts that do not add up are several answers."""
    first, total = parts[0], Fraction(0)
    for part in parts:
        if not (
            isinstance(part, Quantity)
            and isinstance(part.value, Number)
            and isinstance(first, Quantity)
            and part.measure is not None
            and first.measure is not None
            and part.measure.dimension == first.measure.dimension
        ):
            return Listing(parts)
        total += part.value.value * part.measure.factor / first.measure.factor
    assert isinstance(first, Quantity)
    return replace(first, value=Number(total))


def _measure(units: Units, known: Mapping[str, Measure | None]) -> Measure | None:
    dimension: Counter[str] = Counter()
    factor, pi_power, found = Fraction(1), 0, False
    degrees = any(name.casefold() in ("celsius", "fahrenheit") for name, _ in units)
    for name, power in units:
        unit = OWN.get(name.casefold()) or known.get(name)
        if unit is None or (degrees and name.casefold() in ("degree", "degrees")):
            continue
        found = True
        for base, exponent in unit.dimension:
            dimension[base] += exponent * power
        factor *= unit.factor**power
        pi_power += unit.pi_power * power
    return Measure(tuple(sorted(item for item in dimension.items() if item[1])), factor, pi_power) if found else None


def _balanced(text: str) -> bool:
    return text.count("{") == text.count("}") and text.count("(") == text.count(")")
