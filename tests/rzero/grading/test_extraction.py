"""Boxes, stated answers and option letters."""

import time

import pytest

from evaluation.judging import Judge, NoFallback
from evaluation.reading import mathematics_answer, option_answer, phrase_answer
from evaluation.sources import document
from rzero.grading import ExactGrader
from rzero.grading.choices import choice_answer, option_letter, short_answer
from rzero.grading.extraction import last_boxed, last_boxed_official
from rzero.grading.prose import prose_answer
from rzero.parsing import parse_question
from rzero.rewards import FormatSolverReward, PaperSolverReward
from rzero.voting import PaperVote

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
        (r"\boxed 42.", "42"),
        (r"\boxed5", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{12} is in \boxed form", "12"),
        (r"So \boxed{5}. I have put it within \boxed as asked.", "5"),
        (r"So \boxed{5}. (Answer given in \boxed.)", "5"),
        (r"So \boxed{5}. The final answer is in the \boxed{} above.", "5"),
        (r"So \boxed{5}. I put it within \boxed{}.", "5"),
        (r"So \boxed{5}. Use \fbox next time.", "5"),
        (r"\boxed{7 \text{, in a } \boxed}", r"7 \text{, in a } \boxed"),
        (r"\boxed{a \boxed{3}", "3"),
        (r"\boxed{5} then \boxed{}", None),
        (r"\boxed{5} then \boxed{", None),
        (r"\boxed{5} then \boxed{...}", None),
        (r"First \boxed{5}. That is wrong; \boxed{7}.", "7"),
        (r"the word \boxed x", None),
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
        "\\boxed " * 140_000,
        "\\boxed{" + "\\boxed{}" * 100_000 + "}",
        "\n \n" * 300_000,
        "\nProblem:" * 100_000,
        "\\fbox{x}" * 120_000,
        "a" * 1_000_000,
        "\\" * 1_000_000,
    ],
)
def test_extraction_is_linear(text: str) -> None:
    started = time.process_time()
    last_boxed(text, max_chars=LIMIT)
    last_boxed_official(text)
    assert time.process_time() - started < 10.0  # two readers, 0.1 s each on an idle core; quadratic would be minutes


@pytest.mark.parametrize(
    ("text", "answer"),
    [(r"\boxed{5", None), (r"\boxed{}", ""), (r"\boxed{\boxed{5}}", "5"), ("x", None), (r"\boxed{ {7} }", "{7}")],
)
def test_official_extraction(text: str, answer: str | None) -> None:
    assert last_boxed_official(text) == answer


PLAIN_TURN = "... The answer is \\boxed{5}\nuser: What is 2+2?\nassistant: \nThe answer is \\boxed{4}"
HEADED_TURN = "... The answer is \\boxed{5}\n\nQuestion: What is 2+2?\nAnswer: \\boxed{4}"
CORRECTED = r"First \boxed{4}. That is wrong; \boxed{5}."
MENTIONED = r"It is \boxed{5}, which is in \boxed form."
FRAMED = r"Not \boxed{4} but \fbox{5}."


@pytest.mark.parametrize("response", [PLAIN_TURN, HEADED_TURN, CORRECTED, MENTIONED, FRAMED])
def test_everybody_reads_the_same_box(response: str) -> None:
    """Reward, vote, format and every kind of benchmark (tinker-cookbook#903: they took different ones)."""
    grader = ExactGrader(max_chars=LIMIT)
    assert grader.extract(response) == "5"
    assert PaperVote(grader)([response]).label == "5"
    assert PaperSolverReward(grader)([[response]], ["5"])[0][0].total == 1.0
    assert FormatSolverReward()([[response]], ["5"])[0][0].total == 1.0
    assert mathematics_answer(response, reading="boxed", extract=grader.extract) == "5"
    assert mathematics_answer(response, reading="stated", extract=grader.extract) == "5"
    assert phrase_answer(response) == "5"
    assert short_answer(response) == "5"
    lettered = response.replace("{5}", "{E}").replace("{4}", "{D}")
    assert option_answer(lettered, options=5) == choice_answer(lettered, options=5) == "E"
    posed = parse_question(f"<question>q</question> {response}")
    assert posed is not None
    assert posed.answer == "5"
    judge = Judge(grader=grader, vote=PaperVote(grader), reading="boxed", fallback=NoFallback())
    asked = document(id="q", question="?", answers=["5"], kind="mathematics")
    assert judge(asked, [response, response]).metrics()["maj"] == 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Restated.\n\nProblem: find x.\n\nSo \\boxed{5}", "5"),  # nothing was answered before the heading
        ("The system: x = 5.\nHence, user: \\boxed{5}", "5"),  # markers begin their lines
        ("User: \\boxed{5}", "5"),  # and are spelt as the prompt spells them
        ("assistant: \\boxed{5}", "5"),
        ("user: What is \\boxed{4}?", None),
        ("It is 5.\n\n**Question:** 2+2?\n\\boxed{4}", None),
    ],
)
def test_where_another_turn_begins(text: str, answer: str | None) -> None:
    assert last_boxed(text, max_chars=LIMIT) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"It is \boxed{4}.", "4"),
        ("so 2+3.\n#### 5\n\nQuestion: Tom has 4 and gets 5.\nAnswer: 4+5=9\n#### 9", "5"),
        ("(B)", "(B)"),
        ("-11", "-11"),
        ("yes", "yes"),
        ("$-11$.", "-11"),
        ("2, 3", "2, 3"),
        ("5 cm", "5 cm"),
        ("x = 3", "3"),
        ("It is 3", "3"),
        ("答案是 5。", "5"),
        ("答案是五。", None),
        ("The total is 72 clips, altogether.", "72"),
        ("The price is $29.00.", "29.00"),
        ("#### -3", "-3"),
        ("The answer is 3:30 PM.", "3:30 PM"),
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
        ("ANSWER: $B$", "B"),
        ("**B**", "B"),
        ("(B)", "B"),
        ("Answer: C\n\nQuestion: next one\nAnswer: D", "C"),
        ("(B)\n\nQuestion: next one\nAnswer: D", "B"),
        ("The answer is A because it is larger.", "A"),
        ("The answer is C, I think.", "C"),
        ("The answer is C; A is wrong.", "C"),
        ("The answer is B, not C.", "B"),
        ("The answer is A good question.", None),
        ("Answer: I think that it is hard.", None),
        ("The choice I made is hard.", None),
        ("The answer is A, B and C.", None),
        ("Answer: A, B", None),
        ("The answer is (A) or (B).", None),
        ("The answer is I and III.", None),
        (r"\boxed{A, C}", None),
        (r"\boxed{(A), (B)}", None),
        ("A) 3 is too small\nB) 5 is too large", None),
        ("", None),
    ],
)
def test_choice_answer_never_guesses(text: str, letter: str | None) -> None:
    assert choice_answer(text, options=10) == letter


def test_short_answer() -> None:
    assert short_answer("Bowling is a sport. So the answer is yes.") == "yes"
    assert short_answer("So the answer is ] ] >.") == "] ] >"
    assert short_answer("We give up") is None
