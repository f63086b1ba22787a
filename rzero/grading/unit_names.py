"""Names of units and what they measure, by pint's table. Runs in the killable process.

Only names are looked up, one at a time; no text is handed to pint's expression parser. Factors are exact fractions.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pint

_REGISTRY: Any = pint.UnitRegistry(non_int_type=Fraction)
# Words that count or draw something in answers, whatever else they are called in a laboratory or a print shop.
_COUNTED = {
    "unit",
    "units",
    "point",
    "points",
    "count",
    "counts",
    "dot",
    "dots",
    "link",
    "links",
    "particle",
    "cat",
    "cats",
}
_MAX_CHARS = 40
_SYMBOL_CHARS = 3  # a prefix of one letter stands before a symbol (km), a long one before a name (kilometer)


def measure(name: str) -> list[Any] | None:
    """[[[base unit, power], ...], "p/q"]: the dimension of a unit and its size in base units; None if it is no unit."""
    if len(name) > _MAX_CHARS or not name.isalpha() or name.casefold() in _COUNTED:
        return None
    for spelling in dict.fromkeys((name, name.lower())):
        for prefix, unit, _ in _REGISTRY.parse_unit_name(spelling):
            if prefix and not spelling.startswith(prefix) and not _is_symbol(spelling, unit):
                continue
            return _measured(prefix + unit)
    return None


def _is_symbol(spelling: str, unit: str) -> bool:
    return any(spelling.endswith(symbol) and len(symbol) <= _SYMBOL_CHARS for symbol in _symbols(unit))


def _symbols(unit: str) -> list[str]:
    definition = _REGISTRY._units[unit]
    return [definition.defined_symbol, *definition.aliases] if definition.defined_symbol else list(definition.aliases)


def _measured(unit: str) -> list[Any] | None:
    """Dimension and size of a unit by its full name. A temperature with a zero of its own is its own dimension."""
    if not _REGISTRY._is_multiplicative(unit):
        return [[[unit, 1]], "1/1"]
    factor, base = _REGISTRY.get_root_units(_REGISTRY.UnitsContainer({unit: 1}))
    dimension = [[str(name), int(power)] for name, power in sorted(base._units.items()) if power == int(power)]
    if not dimension or len(dimension) < len(base._units):
        return None
    size = Fraction(factor)
    return [dimension, f"{size.numerator}/{size.denominator}"]
