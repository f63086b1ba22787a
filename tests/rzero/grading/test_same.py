"""`same` is an equivalence relation, and the classes of answers to one question depend on their set alone."""

import random
from itertools import permutations

import pytest

from experiments.conformance.equivalence import LEAST_EQUAL, classed_pools, tried, triples
from experiments.conformance.spellings import family
from rzero.grading import MathGrader
from rzero.voting import PaperVote

TRIPLES, FAMILIES = 5000, 25


@pytest.mark.slow
def test_no_triple_breaks_the_relation(grader: MathGrader) -> None:
    draw = random.Random(1)
    drawn = list(triples(classed_pools(grader, [family(draw) for _ in range(FAMILIES)]), TRIPLES, draw))
    found = tried(grader, drawn)
    assert [(triple, why) for triple, (why, _) in zip(drawn, found, strict=True) if why] == []
    assert sum(two_equal for _, two_equal in found) >= LEAST_EQUAL * TRIPLES


@pytest.mark.parametrize(
    ("left", "right", "verdict"),
    [
        ("50\\%", "0.5", True), ("50\\%", "50", False), ("5", "5 \\text{ cm}", False),
        ("5 cm", "0.05 \\text{ m}", True),
        ("1,2", "2,1", True), ("1,2", "(1,2)", False), ("2\\pi", "6.283185307179586", False), ("x=5", "y=5", False),
        ("7 million", "7000000", True), ("\\sqrt{8}", "2\\sqrt{2}", True), ("x(x+1)", "x^2+x", True),
        ("x+1", "y+1", False),
        ("2x+2y=4", "x+y=2", True), ("\\sqrt{x^2}", "|x|", True), ("\\sqrt{x^2}", "x", False),
        ("2x < 6", "x < 3y", False),
        ("\\sin^2 t + \\cos^2 t", "1", True), ("0.1x", "x/10", True), ("3:30 pm", "15:30", True),
        ("3^{500}", "3^{500}+1", False),
        ("\\pi \\text{ rad}", "180^\\circ", True), ("x > 1 \\text{ or } x > 2", "x > 1", True), (" ", " ", False),
    ],
)  # fmt: skip
def test_alone_an_answer_means_what_it_says(grader: MathGrader, left: str, right: str, verdict: bool) -> None:
    assert grader.same(left, right) is verdict
    assert grader.same(right, left) is verdict


@pytest.mark.parametrize(
    ("answers", "sizes"),
    [
        (("50\\%", "0.5", "50"), [3]),  # either reading, as only so it meets the answer with the sign
        (("50\\%", "50", "70"), [1, 2]),
        (("5", "5 cm", "5\\mathrm{~cm}", "5 centimeters"), [4]),
        (("5", "5 cm", "50 \\text{ mm}", "6"), [1, 1, 2]),  # they do not share a unit, so 5 stays bare
        (("5", "5 cm", "0.05 \\text{ m}"), [1, 2]),
        (("90^\\circ", "90", "\\frac{\\pi}{2}"), [3]),
        (("1,2", "(1,2)", "(2,1)", "2,1"), [2, 2]),
        (("1,2", "2,1", "\\{1,2\\}"), [3]),
        (("x=5", "5", "y=5"), [1, 1, 1]),
        (("x=5", "5", "x=6"), [1, 2]),
        (("y=x+1", "y-x=1", "x-y+1=0"), [3]),
        (("y=x+1", "x+1", "f(x)=x+1"), [3]),
        (("x<3", "(-\\infty,3)", "3>x"), [3]),
        (("3:30", "3:30 PM", "15:30"), [3]),
        (("3:30", "3:30 PM", "3:30 am"), [1, 1, 1]),
        (("\\$29", "29", "29 \\text{ dollars}"), [3]),
        (("20 \\text{ apples}", "20"), [2]),
    ],
)
def test_answers_to_one_question_complete_one_another(
    grader: MathGrader, answers: tuple[str, ...], sizes: list[int]
) -> None:
    votes = [PaperVote(grader)([f"\\boxed{{{answer}}}" for answer in order]) for order in permutations(answers)]
    assert {tuple(sorted(count for _, count in vote.counts)) for vote in votes} == {tuple(sizes)}
    if sizes[-2:-1] != sizes[-1:]:
        assert len({vote.label for vote in votes}) == 1


def test_questions_do_not_complete_one_another(grader: MathGrader) -> None:
    assert grader.classes([["5", "5 cm"], ["5", "5 kg"], ["5", "5 cm", "5 kg"]]) == [[0, 0], [0, 0], [0, 1, 2]]
