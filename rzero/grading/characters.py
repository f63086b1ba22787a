r"""Unicode as LaTeX: signs, digits of every script, superscripts, fractions, mathematical letters.

Compatibility normalisation alone would make `x²` the text `x2`, so powers, indices and fractions are written out first.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2012": "-", "\u2010": "-", "\u2011": "-", "\u2014": "-", "\ufe63": "-",
        "\uff0d": "-", "\u00d7": "\\times ", "\u2217": "\\cdot ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ",
        "\u2219": "\\cdot ", "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u221e": "\\infty ", "\u221a": "\\sqrt ",
        "\u221b": "\\sqrt[3] ", "\u00b1": "\\pm ", "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2208": "\\in ",
        "\u2264": "\\le ", "\u2a7d": "\\le ", "\u2265": "\\ge ", "\u2a7e": "\\ge ", "\u2260": "\\neq ",
        "\u2248": "\\approx ", "\u2216": "\\setminus ", "\u2205": "\\emptyset ", "\u211d": "\\mathbb{R}",
        "\u2124": "\\mathbb{Z}", "\u2220": "\\angle ", "\u27e8": "\\langle ", "\u27e9": "\\rangle ",
        "\u00b0": "^\\circ ", "\u2103": "^\\circ C", "\u2109": "^\\circ F", "\u00b5": "\\mu ", "\u03bc": "\\mu ",
        "\u2126": "\\Omega ", "\u03a9": "\\Omega ", "\u212b": "\\AA ", "\u00c5": "\\AA ",
        "\u03c0": "\\pi ", "\u03b8": "\\theta ", "\u03b1": "\\alpha ", "\u03b2": "\\beta ", "\u03b3": "\\gamma ",
        "\u03b4": "\\delta ", "\u03b5": "\\epsilon ", "\u03bb": "\\lambda ", "\u03c1": "\\rho ", "\u03c3": "\\sigma ",
        "\u03c4": "\\tau ", "\u03c6": "\\phi ", "\u03d5": "\\phi ", "\u03c8": "\\psi ", "\u03c9": "\\omega ",
        "\u0394": "\\Delta ", "\u3002": ".", "\u060c": ",", "\u066b": ".", "\u066c": ",", "\u2019": "'", "\u2032": "'",
        "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u200e": "", "\u200f": "",
    }
)  # fmt: skip
_RAISED = dict(
    zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f", "0123456789+-n", strict=True)
)
_LOWERED = dict(zip("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789", strict=True))
_RAISED_RUN = re.compile("[" + "".join(_RAISED) + "]+")
_LOWERED_RUN = re.compile("[" + "".join(_LOWERED) + "]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")


def as_latex(text: str) -> str:
    """`text` in ASCII as far as it is mathematics; other letters stay. ASCII text comes back as it is."""
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: "^{" + "".join(_RAISED[digit] for digit in run[0]) + "}", text)
    text = _LOWERED_RUN.sub(lambda run: "_{" + "".join(_LOWERED[digit] for digit in run[0]) + "}", text)
    text = _VULGAR.sub(_fraction, text.translate(_SIGNS))
    # mathematical and full-width letters fold to plain ones, and may be signs of the table only then
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    return "".join(str(unicodedata.decimal(c)) if c > "\x7f" and c.isdecimal() else c for c in text)


def _fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return f"\\frac{{{top}}}{{{bottom}}}"
