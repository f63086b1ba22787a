"""What is the same answer, and what is not."""

import itertools
import random
from collections.abc import Callable

import pytest

from rzero.grading import ExactGrader, MathGrader, OfficialGrader

SAME = [
    ("5", "5.0"), ("1,234", "1234"), ("10,\\!080", "10080"), ("1/2", "\\frac12"), ("0.5", "\\dfrac{1}{2}"),
    (".5", "0.50"), ("6\\frac23", "\\frac{20}{3}"), ("2 1/3", "7/3"), ("1e-5", "0.00001"), ("3e8", "3 \\times 10^{8}"),
    ("0.333333", "1/3"), ("25\\%", "25"), ("60\\%", "0.6"), (b"\\u22127".decode("unicode_escape"), "-7"),
    ("$18.90", "18.9"), ("\\$18.90", "18.90"), ("90^\\circ", "90"), ("5 \\text{ cm}", "5"), ("12 hours", "12"),
    ("12^{\\text{th}}", "12"), ("5\\text{am}", "5am"), ("1:58 am", "1:58"), ("\\text{east}", "East"), ("(C)", "C"),
    ("(D) $x^2$", "D"), ("x=5", "5"), ("f(x) = x^2", "x^2"), ("x \\in [-2,7]", "[-2,7]"), ("1, 2", "2,1"),
    ("-1 \\text{ and } -9", "-9,-1"), ("4 \\text{ or } 8", "8, 4"), ("3 \\pm 2\\sqrt2", "3-2\\sqrt{2}, 3+2\\sqrt{2}"),
    ("b=-3, c=0", "-3,0"), ("n = 1, 3, 5", "1,3,5"), ("\\{1,2\\}", "2, 1"), ("(1, \\frac{2}{4})", "(1,0.5)"),
    ("\\frac{\\sqrt3}{2}", "\\frac12\\sqrt{3}"), ("x^2+2x+1", "(x+1)^2"), ("\\sin^2 x+\\cos^2 x", "1"), ("2^8", "256"),
    ("\\frac{1}{\\sqrt2}c", "\\frac{c}{\\sqrt2}"), ("\\frac{1}{2a}(e^{at}-e^{-at})", "\\frac{\\sinh(at)}{a}"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"), ("x \\le 2", "2 \\ge x"),
    ("1.25P", "\\frac{5P}{4}"), ("\\frac{10^8 L_{\\odot}}{7}", "\\frac{10^5 L_{\\odot}}{0.007}"), ("\\pi", "\\pi"),
]  # fmt: skip
DIFFERENT = [
    ("5", "6"), ("25", "0.25"), ("2\\sqrt3", "2\\sqrt5"), ("1/2004!", "1/2006!"), ("10^{-20}x", "2 \\cdot 10^{-20}x"),
    ("(1,2)", "(2,1)"), ("[0,1)", "[0,1]"), ("(2,\\infty)", "[2,\\infty)"), ("1,2,3", "1,2"), ("32, 349", "32349"),
    ("3 4", "34"), ("5am", "5pm"), ("1:00", "12:00"), ("5 \\text{ cm}", "5 \\text{ m}"), ("4343_6", "4343"),
    ("5x - 7y + 4 = 0", "0"), ("11a+c", "7 = 11a+c"), ("\\frac{37}{4}m", "\\frac{37}{4}"), ("east", "seat"),
    ("288000000000000001", "288000000000000000"), ("1.41", "\\sqrt2"), ("2021", "\\pm 2021"), ("x", "y"),
    ("b = m, k = 2", "2"), ("4", "r = 4, 7/2"), ("1 + \\frac1e", "1 - \\frac1e"), ("", "0"), ("", ""), ("C", "D"),
    ("9^{9^{9^9}}", "9^{9^{9^8}}"), ("99999999!", "1"), ("\\text{no}", "\\text{yes}"), ("0.000001", "0.0000014"),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SAME)
def test_same(grader: MathGrader, left: str, right: str) -> None:
    assert grader.equivalent(left, right)
    assert grader.equivalent(right, left)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different(grader: MathGrader, left: str, right: str) -> None:
    assert not grader.equivalent(left, right)
    assert not grader.equivalent(right, left)


def test_everything_equals_itself(grader: MathGrader) -> None:
    texts = {text for pair in SAME + DIFFERENT for text in pair if text} | {
        "\\boxed{",
        "$$",
        "9" * 5000,
        "..",
        "\ud800",
    }
    assert all(grader.equivalent(text, text) for text in texts)


def test_verdicts_do_not_depend_on_workers_order_or_history(make_grader: Callable[..., MathGrader]) -> None:
    texts = sorted({text for pair in SAME + DIFFERENT for text in pair})
    chosen = random.Random(0).sample(list(itertools.permutations(texts, 2)), 150) + SAME
    expected: dict[tuple[str, str], bool] = {}
    for workers in (1, 2, 4):
        shuffled = random.Random(workers).sample(chosen, len(chosen))
        with make_grader(workers=workers, requests_per_server=40) as grader:
            verdicts = dict(zip(shuffled, grader.equivalent_many(shuffled), strict=True))
        expected = expected or verdicts
        assert verdicts == expected


def test_what_is_over_the_gate_equals_its_own_spelling_only(grader: MathGrader) -> None:
    before = grader.counters["gated"]
    tower = "7^{7^{7^{7}}} \\pmod{10}"
    assert not grader.equivalent(tower, "3")
    assert grader.equivalent(tower, "$7^{7^{7^7}} \\pmod{10}$")
    assert not grader.equivalent("(" * 500 + "1" + ")" * 500, "2+x")
    assert grader.counters["gated"] >= before + 2


def test_counters_say_how_verdicts_came_about(make_grader: Callable[..., MathGrader]) -> None:
    with make_grader(workers=1) as grader:
        grader.equivalent_many([("1", "2"), ("x+x", "2x"), ("9**9**9**9", "1+x")])
        assert dict(grader.counters) == {"cheap": 2, "symbolic": 1, "gated": 1, "killed": 0, "errors": 0}
        assert grader.metrics["grader/symbolic"] == 1.0


def test_exact_grader_compares_spellings_only() -> None:
    grader = ExactGrader(max_chars=100)
    assert grader.equivalent("\\dfrac{1}{2}", "$\\frac12$")
    assert not grader.equivalent("0.5", "\\frac12")
    assert not grader.equivalent("", "")
    assert grader.extract("\\boxed{3}") == "3"
    with pytest.raises(ValueError, match="max_chars"):
        ExactGrader(max_chars=0)


# docs/authors_code.md R15, and verdicts recorded in golden/solver_reward
@pytest.mark.parametrize(
    ("given", "truth", "verdict"),
    [
        ("AB", "BA", True), ("x", "X", True), ("5", "x=5", True), ("2/4", "1/2", False), ("2^{10}", "1024", False),
        ("10%", "10", True), ("10%", "0.1", False), ("1,2,3", "3,2,1", False), ("\\frac{3}{5}", "0.6", True),
        ("2\\sqrt{3}", "\\sqrt{12}", True), ("x^2-1", "(x-1)(x+1)", True), ("7\\frac{3}{4}", "31/4", True),
        ("", "", True), ("None", "", False), ("0.333", "1/3", False), ("2 or 3", "2,3", True), ("1e3", "1000", True),
        ("9**9**9", "3", False), ("[a]*9**9", "a", False),
    ],
)  # fmt: skip
def test_official_equality(official: OfficialGrader, given: str, truth: str, verdict: bool) -> None:
    assert official.equivalent(given, truth) is verdict
