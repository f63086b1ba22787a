r"""Families of answers that are near one another: one value in many spellings, and values that are easily confused.

Used to try `Grader.same` where it could fail to be an equivalence relation: units and percent left out on one side, the
order of items, TeX and plain notation, scale words, names.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

_PLAIN = re.compile(r"-?\d{1,9}(?:\.\d{1,6})?")
_FULL_WIDTH = str.maketrans("0123456789", "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19")


def respelt(answer: str) -> list[str]:
    """An answer and other ways to write it, or to leave something out of it."""
    spellings = [
        answer,
        f"${answer}$",
        f"**{answer}**",
        f"\\left({answer}\\right)",
        f"x = {answer}",
        f"{answer} \\text{{ cm}}",
    ]
    if _PLAIN.fullmatch(answer):
        value = Fraction(answer)
        spellings += [
            f"{answer}\\%", f"{answer}%", f"{answer} \\text{{ percent}}", str(float(value / 100)), f"{answer} cm",
            f"{answer}\\mathrm{{~cm}}", f"{answer} \\text{{ centimeters}}", f"{float(value * 10)} \\text{{ mm}}",
            f"{answer} \\text{{ m}}", f"{answer}^\\circ", f"\\${answer}", f"{answer} \\text{{ dollars}}",
            f"{answer} \\text{{ thousand}}", str(float(value * 1000)), f"{answer}e3", f"{answer} \\times 10^3",
            f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}",
            f"{answer}.", answer.translate(_FULL_WIDTH), f"y = {answer}", f"\\{{{answer}\\}}", f"{answer}, {answer}",
        ]  # fmt: skip
    return spellings


def family(draw: random.Random) -> list[str]:
    """The spellings of a few near values of one kind."""
    kind = draw.choice((_numbers, _fractions, _lists, _intervals, _formulas, _equations, _times))
    return kind(draw)


def _near(draw: random.Random, count: int = 2) -> list[int]:
    start = draw.randint(1, 60)
    return [start, *(start + draw.choice((-1, 1, 10, 100)) for _ in range(count - 1))]


def _numbers(draw: random.Random) -> list[str]:
    return [spelling for value in _near(draw) for spelling in respelt(str(value))]


def _fractions(draw: random.Random) -> list[str]:
    top, bottom = draw.randint(1, 9), draw.choice((2, 4, 5, 8, 10))
    decimal = str(float(Fraction(top, bottom)))
    forms = [
        f"\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{top}{{{bottom}}}", f"{top}/{bottom}", f"{{{top} \\over {bottom}}}",
        f"\\frac{{{2 * top}}}{{{2 * bottom}}}", f"{top} \\div {bottom}", f"{bottom}/{top}",
        f"\\sfrac{{{top}}}{{{bottom}}}",
    ]  # fmt: skip
    return forms + respelt(decimal)


def _lists(draw: random.Random) -> list[str]:
    a, b, c = draw.sample(range(1, 20), 3)
    orders: list[Sequence[int]] = [(a, b), (b, a), (a, b, c), (c, a, b), (a, c)]
    forms: list[Callable[[Sequence[int]], str]] = [
        lambda row: ", ".join(map(str, row)),
        lambda row: " \\text{ and } ".join(map(str, row)),
        lambda row: " or ".join(f"x={value}" for value in row),
        lambda row: "\\{" + ",".join(map(str, row)) + "\\}",
        lambda row: "(" + ",".join(map(str, row)) + ")",
        lambda row: "[" + ", ".join(map(str, row)) + "]",
        lambda row: ", ".join(f"{name}={value}" for name, value in zip("xyz", row, strict=False)),
        lambda row: "\\begin{pmatrix}" + "\\\\".join(map(str, row)) + "\\end{pmatrix}",
    ]
    return [form(order) for order in orders for form in forms]


def _intervals(draw: random.Random) -> list[str]:
    low = draw.randint(-9, 9)
    high = low + draw.randint(1, 9)
    return [
        f"({low}, {high})", f"{low} < x < {high}", f"{high} > x > {low}", f"x > {low} \\text{{ and }} x < {high}",
        f"[{low}, {high})", f"{low} \\leq x < {high}", f"{low} < y < {high}", f"x > {low}", f"({low}, \\infty)",
        f"x < {low} \\text{{ or }} x > {high}", f"(-\\infty, {low}) \\cup ({high}, \\infty)",
        f"x > {high} or x < {low}",
        f"({high}, +\\infty) \\cup (-\\infty, {low})", f"{low} < t < {high}", f"x \\in ({low}, {high})",
    ]  # fmt: skip


def _formulas(draw: random.Random) -> list[str]:
    a, b = _near(draw)
    return [
        f"{a}x^2+{b}x", f"x({a}x+{b})", f"{b}x+{a}x^2", f"{a}*x**2 + {b}*x", f"{b}x^2+{a}x", f"{a}\\sqrt{{{b}}}",
        f"\\sqrt{{{a * a * b}}}", f"{a}*sqrt({b})", f"\\frac{{{a * b}}}{{\\sqrt{{{b}}}}}", f"{a}\\pi", f"\\pi {a}",
        f"{a}*pi",
        f"{a}\\pi \\text{{ cm}}", f"{a}^{{2}}", str(a * a), f"x\\sqrt{{{a}}}", f"\\sqrt{{{a}x^2}}", f"\\sqrt{{{a}}}|x|",
        f"f(x) = {a}x^2+{b}x", f"y = {a}x^2+{b}x", "\\sqrt{x}\\sqrt{x}", "x", "|x|", "\\sqrt{x^2}",
    ]  # fmt: skip


def _equations(draw: random.Random) -> list[str]:
    a, b = _near(draw)
    return [
        f"{a}x+{b}y=1", f"{2 * a}x+{2 * b}y=2", f"1={b}y+{a}x", f"{a}x+{b}y-1=0", f"{a}x-{b}y=1", f"x={a}", f"{a}=x",
        str(a),
        f"y={a}", f"x={a}, y={b}", f"y={b}, x={a}", f"(x,y)=({a},{b})", f"({a},{b})", f"{a},{b}", f"x-{a}=0",
    ]  # fmt: skip


def _times(draw: random.Random) -> list[str]:
    hour, minute = draw.randint(1, 11), draw.choice((0, 15, 30))
    clock = f"{hour}:{minute:02d}"
    return [
        clock, f"{clock} \\text{{ a.m.}}", f"{clock} AM", f"{clock}\\text{{ PM}}", f"{hour + 12}:{minute:02d}",
        f"{hour} am",
        f"{hour}", f"{hour} \\text{{ hours}}", f"{hour * 60} \\text{{ minutes}}", f"{hour} \\text{{ million}}",
        f"{hour * 10**6}", f"{hour},000,000", f"{hour} \\times 10^6", f"{hour} \\text{{ thousand}}", f"{hour},000",
    ]  # fmt: skip
