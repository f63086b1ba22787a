"""Reading and comparing answers of every kind, and the remote judge against a server of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from evaluation.judging import Judge, Judged, NoFallback, RandomLetter
from evaluation.phrases import same_phrase
from evaluation.reading import option_answer, phrase_answer
from evaluation.remote_judge import NoRemoteJudge, RemoteJudge, Review
from evaluation.sources import document
from rzero.grading import ExactGrader
from rzero.voting import PaperVote

GRADER = ExactGrader(max_chars=2000)


def judge(reading: str = "boxed", fallback: NoFallback | RandomLetter | None = None) -> Judge:
    return Judge(grader=GRADER, vote=PaperVote(GRADER), reading=reading, fallback=fallback or NoFallback())  # type: ignore[arg-type]


def question(kind: str, *answers: str, options: int = 0) -> dict[str, object]:
    return document(id="q", question="?", answers=answers, kind=kind, options=options)


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{{C}}", "C"),
        (r"\BOXED{C}", "C"),
        (r"\boxed{C: because it is A}", "C"),
        ("Final Answer: C", "C"),
        ("Final Answer: <b>C</b>\n", "C"),
        (r"\boxed{A} no, \boxed{C}", "C"),
        (r"\boxed{C}<|im_end|>\boxed{A}", "C"),
        (r"\boxed{C", None),
        (r"\boxed{\Delta G}", None),
        (r"\boxed{Distress}", None),
        (r"\boxed{c}", None),
        (r"\boxed{K}", None),
        ("I cannot say.", None),
        ("", None),
    ],
)
def test_a_letter_counts_only_where_it_is_given_as_the_answer(response: str, letter: str | None) -> None:
    assert option_answer(response, options=10) == letter


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{a, b}", "a, b"),
        ("Final Answer: yes\nbye", "yes"),
        ("Final Answer: yes", "yes"),
        ("The answer is: 7", "7"),
        (r"\boxed{}", None),
        ("nothing", None),
    ],
)
def test_phrases_are_read_from_the_box_or_an_announcement(response: str, answer: str | None) -> None:
    assert phrase_answer(response) == answer


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("(a)", "A", True),
        (r"\textbf{(B)}", "(B)", True),
        ("1,234", "1234", True),
        (r"\frac{1}{2}", "1/2", True),
        ("3.0", "3", True),
        ("[1,2]", "1, 2", True),
        ("The answer is 7.", "7", True),
        ("why?", "why", True),
        ("b, a", "a, b", False),
        ("(a)", "b", False),
        ("()", "", False),
        ("nan", "inf", False),
    ],
)
def test_phrases_compare_by_the_published_rules(left: str, right: str, same: bool) -> None:
    assert same_phrase(left, right) is same


def test_no_letter_is_wrong_and_only_the_official_protocol_draws_one() -> None:
    asked = question("option", "B", options=4)
    assert judge()(asked, ["I do not know"]).answers == (None,)
    drawn = [judge(fallback=RandomLetter(seed=seed))(asked, ["?"] * 20).answers for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2], "seeded"
    assert set("".join(letter or "" for letter in drawn[0])) <= set("ABCDEFGHIJ")
    assert judge(fallback=RandomLetter(seed=0))(asked, [r"\boxed{B}"]).right == (True,)


def test_several_responses_are_judged_one_by_one_and_by_majority() -> None:
    judged = judge()(question("mathematics", "5"), [r"\boxed{5}", r"\boxed{4}", "5", r"\boxed{5}"])
    assert judged.right == (True, False, False, True)
    assert judged.majority
    assert judged.metrics() == {"exact_match": 0.5, "maj": 1.0, "any_right": 1.0, "well_formed": 0.75}
    assert judge(reading="stated")(question("mathematics", "5"), ["The answer is 5."]).right == (True,)
    assert judge()(question("mathematics", "6", "5"), [r"\boxed{5}"]).right == (True,), "any of several gold answers"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        judge()(question("essay", "5"), ["5"])


class _Endpoint(BaseHTTPRequestHandler):
    asked: ClassVar[list[dict[str, str]]] = []
    reply = "Yes."

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(json.loads(body["messages"][-1]["content"]))
        content = json.dumps({"choices": [{"message": {"content": self.reply}}]}).encode()
        self.send_response(200 if self.reply else 500)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Endpoint.asked, _Endpoint.reply = [], "Yes."
    with HTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_the_remote_judge_counts_upgrades_apart_and_gets_its_arguments_the_right_way_round(endpoint: str) -> None:
    remote = RemoteJudge(url=endpoint, model="stub", key_variable=None, timeout_seconds=5.0)
    documents = [document(id=str(i), question=f"question {i}", answers=["gold"], kind="phrase") for i in range(3)]
    judged = {
        "0": Judged(answers=("candidate",), right=(False,), majority=False),
        "1": Judged(answers=("gold",), right=(True,), majority=True),
        "2": Judged(answers=(None,), right=(False,), majority=False),
    }
    assert remote.review(documents, judged) == Review(asked=1, upgraded=1, failed=0, ids=("0",))
    assert _Endpoint.asked == [
        {"question": "question 0", "reference_answer": "gold", "candidate_answer": "candidate"}
    ], "only what was judged wrong is shown"
    _Endpoint.reply = "no"
    assert remote.same(question="q", reference="a", candidate="b") is False
    _Endpoint.reply = "It depends"
    assert remote.same(question="q", reference="a", candidate="b") is None
    _Endpoint.reply = ""
    assert remote.review(documents, judged).failed == 1
    assert NoRemoteJudge().review(documents, judged) is None


def test_a_remote_judge_needs_a_url_and_its_key() -> None:
    with pytest.raises(ValueError, match="url must start with"):
        RemoteJudge(url="localhost", model="m", key_variable=None, timeout_seconds=1.0)
    with pytest.raises(ValueError, match="not set in the environment"):
        RemoteJudge(url="http://x", model="m", key_variable="RZERO_NO_SUCH_VARIABLE", timeout_seconds=1.0)
