"""Question blocks and boxes: expected values by hand, the hostile file, and linear time."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rzero.parsing import (
    official_generation_parse,
    official_reward_parse,
    parse_question,
    question_fault,
    tag_only_parse,
)
from rzero.types import Question

HOSTILE = Path(__file__).resolve().parents[3] / "shared" / "hostile" / "questions.jsonl"
PARSERS = (parse_question, official_generation_parse, official_reward_parse, tag_only_parse)


def test_last_block_and_last_box_behind_it() -> None:
    first, second = "\\boxed{0} <question>one</question>\\boxed{1}", "<question>\n two \n</question> \\boxed{2}"
    response = f"{first} {second} so \\boxed{{\\frac{{1}}{{2}}}}"
    assert parse_question(response) == Question(text="two", answer="\\frac{1}{2}")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<question>q</question>", None),
        ("<question>q</question>\\boxed{}", None),
        ("<question>q</question>\\boxed{ }", None),
        ("<question>q</question>\\boxed{7", None),
        ("<question>q</question>\\boxed{7} or \\boxed{8", None),
        ("\\boxed{7} <question>q</question>", None),
        ("<question>q</question>\\boxed{final_answer}", None),
        ("<question>q</question>\\boxed{[your answer]}", None),
        ("<question>q</question>\\boxed{ {1, 2} }", "{1, 2}"),
        ("<question>q</question>\\boxed{\\boxed{5}}", "\\boxed{5}"),
        ("<question>q</question>\\fbox{5}", "5"),
        ("<question>q</question>\\boxed{5}, as \\boxed asks", "5"),
    ],
)
def test_answers(response: str, answer: str | None) -> None:
    assert parse_question(response) == Question(text="q", answer=answer)


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        ("", "no_block"),
        ("</question>q<question>", "no_block"),
        ("<QUESTION>q</QUESTION>", "no_block"),
        ("<question>a<question>b</question></question>", "nested_block"),
        ("<question> \u200b\ufeff\u3000\n</question>\\boxed{1}", "empty_question"),
        ("<question>" + "a" * 8001 + "</question>\\boxed{1}", "long_question"),
        ("<question>What is \\boxed{7}?</question>\\boxed{1}", "box_in_question"),
        ("<question>{The full problem statement}</question>\\boxed{1}", "placeholder"),
    ],
)
def test_faults(response: str, fault: str) -> None:
    assert question_fault(response) == fault
    assert parse_question(response) is None


def test_nul_is_removed_and_other_text_is_kept_as_written() -> None:
    question = parse_question("<question>What is {question} ${x}\0 \u202e?</question>\\boxed{1}")
    assert question == Question(text="What is {question} ${x} \u202e?", answer="1")


def test_the_authors_two_parsers_disagree() -> None:
    unclosed = "<question>q</question>\\boxed{12"
    assert official_generation_parse(unclosed) == Question(text="q", answer="1")
    assert official_reward_parse(unclosed) == Question(text="q", answer="None")
    empty = "<question>q</question>\\boxed{}"
    assert official_generation_parse(empty) == Question(text="q", answer="")
    assert official_reward_parse(empty) is None
    assert official_generation_parse("<question>q</question>") is None
    assert official_reward_parse("<question></question>\\boxed{1}") is None
    assert tag_only_parse("<question>q</question>") == Question(text="q", answer=None)


BLOCK = "<question>\n2 + 3?\n</question>\n\\boxed{5}"


@pytest.mark.parametrize(
    "more",
    [
        "\nuser: Write a new problem.\nassistant: \n<question>\n1 + 1?\n</question>\n\\boxed{2}",
        "\nassistant: \n<question>\n1 + 1?\n</question>\n\\boxed{2}",
        "\n\nProblem: 1 + 1?\n<question>\n1 + 1?\n</question>\n\\boxed{2}",
        "\nuser: What is \\boxed{2}?",
    ],
)
def test_what_a_challenger_writes_after_its_turn_is_not_its_question(more: str) -> None:
    """Base models run on into the turns their prompt has shown them (reported in sgl-project/sglang#29933)."""
    assert parse_question(BLOCK + more) == Question(text="2 + 3?", answer="5")
    assert official_reward_parse(BLOCK + more) != Question(text="2 + 3?", answer="5"), "the authors read it all"


def test_a_challenger_may_head_its_thoughts() -> None:
    assert parse_question(f"3 ideas.\n\nProblem: sums of 2 numbers.\n\n{BLOCK}") == Question(text="2 + 3?", answer="5")
    assert parse_question(f"assistant: \n{BLOCK}") == Question(text="2 + 3?", answer="5")
    inside = "<question>\nAnn has 3.\n\nProblem: how many are left?\n</question>\\boxed{1}"
    assert parse_question(inside) == Question(text="Ann has 3.\n\nProblem: how many are left?", answer="1")


def test_hostile_questions() -> None:
    if not HOSTILE.exists():
        pytest.skip(f"{HOSTILE} is not on this machine")
    for line in HOSTILE.read_bytes().splitlines():
        row = json.loads(line)
        if row["form"] != "completion":
            continue
        text = row["text"] if row.get("text") is not None else "".join(a * b for a, b in row.get("parts") or [])
        question = parse_question(text)
        accepted = question is not None and question.answer is not None
        if row["expect"].startswith("reject"):
            assert not accepted, row["id"]
        if row["expect"] == "accept":
            assert accepted, row["id"]


@pytest.mark.parametrize(
    "unit", ["<question>", "</question>", "<question>x</question>", "\\boxed{", "{", "}", "\\boxed{x}", "<think>", " "]
)
@pytest.mark.parametrize("parse", PARSERS)
def test_time_grows_linearly(unit: str, parse: object) -> None:
    text = "<question>q</question>" + unit * 100_000
    start = time.process_time()
    parse(text)  # type: ignore[operator]
    assert time.process_time() - start < 3.0  # 0.2 s on an idle core; quadratic would be minutes


@given(st.text(alphabet="<>/question{}\\boxed \n1"))
def test_any_text_parses(text: str) -> None:
    for parse in PARSERS:
        question = parse(text)
        assert question is None or question.text == question.text.strip()


@given(st.text(min_size=1, max_size=30), st.integers())
def test_what_is_printed_in_the_format_is_read_back(text: str, answer: int) -> None:
    question = parse_question(f"thinking <question>{text}</question> so \\boxed{{{answer}}}")
    if question is not None and "\0" not in text and "question>" not in text:
        assert question == Question(text=text.strip(), answer=str(answer))
