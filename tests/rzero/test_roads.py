"""Other roads to an answer: requests, verdicts by hand, and a loop that asks about what the rule kept alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rzero.roads import Rewording, Substitution
from rzero.tracking import read_metrics
from rzero.types import Prompt
from tests.rzero.test_rewards import Floats
from tests.rzero.tiny_run import execute, parse, tiny_run

SEVEN, EIGHT, YES, NO = (rf"So \boxed{{{text}}}" for text in ("7", "8", "Yes.", "no"))


def rewording(*, least: float = 0.5, votes: int = 3) -> Rewording:
    return Rewording(
        Floats(), system="", user="Say {question} anew.", parse=parse, sampling={"max_tokens": 8}, votes=votes,
        least=least,
    )  # fmt: skip


def substitution(*, least: float = 0.5) -> Substitution:
    return Substitution(Floats(), system="Check.", user="Is {answer} right? {question}", votes=2, least=least)


def test_slots_are_filled_once_and_text_of_a_question_is_no_slot() -> None:
    assert rewording().request("{answer} {question}") == Prompt(user="Say {answer} {question} anew.")
    expected = Prompt(system="Check.", user="Is {question} right? a {answer}?")
    assert substitution().request("a {answer}?", "{question}") == expected


def test_a_label_stands_where_enough_answers_to_the_new_wording_are_it() -> None:
    answered = [[SEVEN, EIGHT, "7"], [SEVEN, r"\boxed{7.0}", EIGHT], []]
    assert rewording(least=0.5).agrees(["7"] * 3, answered) == [False, True, False]
    assert rewording(least=0.0).agrees(["7"] * 3, answered) == [True] * 3


def test_an_answer_fits_where_enough_say_yes_in_a_box() -> None:
    answered = [[YES, NO, "yes", NO], [YES, r"\boxed{ YES }", NO], [NO], []]
    assert substitution(least=0.6).fits(answered) == [False, True, False, False]
    assert substitution(least=0.25).fits(answered) == [True, True, False, False]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"curriculum\.rewording needs votes >= 1"):
        rewording(votes=0)
    with pytest.raises(ValueError, match=r"curriculum\.substitution needs"):
        substitution(least=1.1)
    with pytest.raises(ValueError, match=r"curriculum\.substitution\.user must contain {answer}"):
        Substitution(Floats(), system="", user="{question}?", votes=1, least=0.5)


@pytest.mark.usefixtures("quiet_lightning")
def test_the_loop_asks_about_what_was_kept_and_names_what_it_drops(tmp_path: Path, base: Path) -> None:
    """Four questions are posed: the first cannot be said in other words, of the others one does not fit."""

    def script(prompt: Prompt, sample: int) -> str:
        if prompt.user.startswith("Say "):
            return " " if "What is a?" in prompt.user else "new"
        if prompt.user.startswith("Is "):
            return NO if "What is b?" in prompt.user else YES
        return "abcd"[sample % 4] if prompt.user == "Pose." else SEVEN

    class Boxed(Rewording):
        def agrees(self, labels, answered):  # type: ignore[no-untyped-def]
            return super().agrees(["7"] * len(labels), answered)

    run = tiny_run(tmp_path / "run", base, script=script)
    road = Boxed(
        Floats(), system="", user="Say {question} anew.", parse=parse, sampling={"max_tokens": 8}, votes=3, least=1.0
    )
    run.curriculum = dataclasses.replace(
        run.curriculum,
        polling=dataclasses.replace(run.curriculum.polling, sampling={"max_tokens": 24}),
        rewording=road,
        substitution=substitution(),
    )
    execute(run)
    assert [(item.question, item.drop_reason) for item in run.bank.get(1)] == [
        ("What is a?", "rewording_differs"),
        ("What is b?", "answer_does_not_fit"),
        ("What is c?", None),
        ("What is d?", None),
    ]
    [row] = [row for row in read_metrics(run.stages.directory.metrics) if "curriculum/kept" in row]
    assert row["extra/responses/rewording"] == 4 + 3 * 3
    assert row["extra/responses/substitution"] == 3 * 2
    assert row["extra/timing_s/substitution"] > 0
    assert row["curriculum/dropped/rewording_differs"] == 1
