"""A calculator grammar for the authors' equality, built into sympy objects by hand. Runs in the killable process.

expression := term (("+" | "-") term)*        term := factor (["*" | "/"] factor)*      (no sign: a product)
factor := ("-" | "+")* power                   power := atom "!"* [("**" | "^") factor]
atom := number | letter | "pi" | ("sqrt" | "ln") "(" expression ")" | "(" expression ")"

The authors hand the same text to a parser that evaluates it as Python. Nothing is evaluated here: a text outside the
grammar raises ValueError.
"""

from __future__ import annotations

import re

from sympy import Expr, Float, Integer, Symbol, factorial, log, pi, simplify, sqrt

_TOKEN = re.compile(
    r"(\d+(?:_\d+)*(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|sqrt|pi|ln|\*\*|[a-z\u03b1-\u03c9]|[-+*/^()!])"
)
_MAX_DEPTH = 60
_MAX_EXPONENT = 400
_MAX_FACTORIAL = 3000


def difference_is_zero(left: str, right: str) -> bool:
    """Whether `left - right` simplifies to 0. Raises ValueError on a text outside the grammar or its bounds."""
    difference = _Parser(left).parse() - _Parser(right).parse()
    return bool(simplify(difference) == 0)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        if "".join(self._tokens) != text:
            raise ValueError("not arithmetic")
        self._at = 0
        self._depth = 0

    def parse(self) -> Expr:
        value = self._expression()
        if self._at < len(self._tokens):
            raise ValueError("unbalanced")
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _expression(self) -> Expr:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("too deep")
        value = self._term()
        while self._peek() in ("+", "-"):
            value = value + self._term() if self._take() == "+" else value - self._term()
        self._depth -= 1
        return value

    def _term(self) -> Expr:
        value = self._factor()
        while (token := self._peek()) and token not in ("+", "-", ")"):
            if token in ("*", "/"):
                self._at += 1
            value = value / self._factor() if token == "/" else value * self._factor()
        return value

    def _factor(self) -> Expr:
        negative = False
        while self._peek() in ("+", "-"):
            negative ^= self._take() == "-"
        value = self._atom()
        while self._peek() == "!":
            self._at += 1
            if value.is_number and not (value.is_Integer and value <= _MAX_FACTORIAL):
                raise ValueError("factorial")
            value = factorial(value)
        if self._peek() in ("**", "^"):
            self._at += 1
            exponent = self._factor()
            if (exponent.is_number and not (exponent.is_Rational or exponent.is_Float)) or abs(
                exponent
            ) > _MAX_EXPONENT:
                raise ValueError("exponent")
            value = value**exponent
        return -value if negative else value

    def _atom(self) -> Expr:
        token = self._take()
        if token in ("sqrt", "ln"):
            if self._peek() != "(":
                raise ValueError("function without brackets")
            return sqrt(self._atom()) if token == "sqrt" else log(self._atom())
        if token == "(":
            value = self._expression()
            if self._take() != ")":
                raise ValueError("unbalanced")
            return value
        if token == "pi":
            return pi
        if token[:1].isdigit() or token[:1] == ".":
            token = token.replace("_", "")
            return Integer(token) if token.isdigit() else Float(token)
        if token.isalpha():
            return Symbol(token)
        raise ValueError("no value")
