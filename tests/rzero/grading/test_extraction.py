"""Boxes, stated answers and option letters."""

import time

import pytest

from rzero.grading.choices import choice_answer, option_letter, short_answer
from rzero.grading.extraction import last_boxed, last_boxed_official
from rzero.grading.prose import prose_answer

LIMIT = 2000


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{5} or rather \boxed{ 6 }", "6"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed {7}", "7"),
        (r"\fbox{8}", "8"),
        (r"\boxed 9", "9"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        ("\\boxed{\n4\n}", "4"),
        (r"\boxed{}", None),
        (r"\boxed{5} wait, \boxed{6", None),
        (r"\boxedminus{5}", None),
        (r"no box", None),
        ("", None),
        (r"\boxed", None),
    ],
)
def test_last_boxed(text: str, answer: str | None) -> None:
    assert last_boxed(text, max_chars=LIMIT) == answer


def test_a_box_over_the_limit_is_no_answer() -> None:
    assert last_boxed(r"\boxed{" + "1" * (LIMIT + 1) + "}", max_chars=LIMIT) is None
    assert last_boxed(r"\boxed{" + "1" * LIMIT + "}", max_chars=LIMIT) == "1" * LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        "\\boxed{" * 140_000,
        "\\boxed" * 160_000,
        "\\fbox{x}" * 120_000,
        "a" * 1_000_000,
        "\\" * 1_000_000,
    ],
)
def test_extraction_is_linear(text: str) -> None:
    started = time.process_time()
    last_boxed(text, max_chars=LIMIT)
    last_boxed_official(text)
    assert time.process_time() - started < 0.5  # two readers; 0.1 s each on an idle core


@pytest.mark.parametrize(
    ("text", "answer"),
    [(r"\boxed{5", None), (r"\boxed{}", ""), (r"\boxed{\boxed{5}}", "5"), ("x", None), (r"\boxed{ {7} }", "{7}")],
)
def test_official_extraction(text: str, answer: str | None) -> None:
    assert last_boxed_official(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"It is \boxed{4}.", "4"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"$\boxed{3}$ ... again $\boxed{3}$", "3"),
        ("5 + 7 = 12\n#### 12", "12"),
        ("He has 3 left.\nA: 3", "3"),
        ("Therefore the answer is $x = 7$.", "7"),
        ("The final answer is 42. I hope it is correct.", "42"),
        ("Final Answer: The area of $ABCD$ is 120.", "120"),
        ("So he ends up with 15 apples.", "15"),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_prose_answer(text: str, answer: str | None) -> None:
    assert prose_answer(text, max_chars=LIMIT) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [("C", "C"), ("(C)", "C"), (r"\text{(C)}", "C"), (r"\textbf{(B)}", "B"), ("(D) $x^2$", "D"), ("A. Paris", "A"),
     ("Alina", None), ("AB", None), ("F(x)", None), ("", None), ("4^x", None)],
)  # fmt: skip
def test_option_letter(text: str, letter: str | None) -> None:
    assert option_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("We compare. The answer is (J).", "J"),
        ("The answer is (A). No, the answer is (C).", "C"),
        (r"Thus \[ \boxed{B} \]", "B"),
        ("Answer: **D**", "D"),
        ("I cannot answer this.", None),
        ("The answer is unclear.", None),
        ("The answer is (Z).", None),
        ("", None),
    ],
)
def test_choice_answer_never_guesses(text: str, letter: str | None) -> None:
    assert choice_answer(text, options=10) == letter


def test_short_answer() -> None:
    assert short_answer("Bowling is a sport. So the answer is yes.") == "yes"
    assert short_answer("So the answer is ] ] >.") == "] ] >"
    assert short_answer("We give up") is None
