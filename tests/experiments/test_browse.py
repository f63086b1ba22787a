"""The page for people: what it shows, that model text stays text, and that nobody else gets in."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import unicodedata
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from experiments import PROJECT
from experiments.browse import main
from experiments.browsing import comparison, selection
from experiments.browsing.pages import HEADERS, create_app
from experiments.browsing.selection import PAGE, Wanted, outcomes, select
from experiments.browsing.shelf import Shelf
from experiments.reporting import figures, plots
from experiments.reporting.data import read_run
from rzero.types import LabelledQuestion, Vote
from tests.experiments.hostile import HOSTILE, hostile_questions
from tests.experiments.runs import RunWriter, finished_run, make_questions
from tests.rzero.test_escaping import HOSTILE as SHARED
from tests.rzero.test_escaping import hostile_texts

MANY = 3000


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A finished run, one with thousands of questions, and one whose models try everything."""
    folder = tmp_path_factory.mktemp("runs")
    finished_run(folder / "micro")
    big = RunWriter(folder / "big", name="big")
    big.pose(1, lambda iteration, rng: make_questions(iteration, rng, candidates=MANY))
    evil = RunWriter(folder / "evil", name="<b>evil</b> {{ 7 * 7 }}")
    evil.pose(1, _everything_hostile)
    return [folder / name for name in ("micro", "big", "evil")]


def _everything_hostile(iteration: int, rng: random.Random) -> list[LabelledQuestion]:
    known = hostile_questions(iteration, rng)
    texts = [text[:2000] for text in hostile_texts()] if SHARED.exists() else []
    more = [
        LabelledQuestion(
            iteration=iteration,
            index=len(known) + number,
            question=text,
            challenger_answer=text,
            vote=Vote(label=text, count=1, divisor=2, counts=((text, 1),), answers=(text, None)),
            drop_reason=None,
        )
        for number, text in enumerate(texts)
    ]
    return known + more


@pytest.fixture(scope="module")
def client(paths: list[Path]) -> TestClient:
    return TestClient(create_app(paths), base_url="http://127.0.0.1", raise_server_exceptions=False)


class Page(HTMLParser):
    """The tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def page(client: TestClient, address: str, *, status: int = 200) -> Page:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    return Page(answer.text)


# --------------------------------------------------------------------------------------------------------------- pages


def test_every_link_of_a_run_leads_somewhere(client: TestClient) -> None:
    seen: set[str] = set()
    waiting = ["/runs/0"]
    while waiting:
        address = waiting.pop()
        seen.add(address)
        links = page(client, address).links if not address.endswith((".css", ".svg", ".png")) else []
        assert all(link.startswith("/") for link in links)
        new = {link for link in links if link.startswith(("/runs/0", "/browse")) and "/iterations/" not in link} - seen
        waiting += sorted(new - set(waiting))
    assert {"/runs/0", "/runs/0/questions", "/browse.css"} <= seen
    assert any("outcome=above_band" in address for address in seen)


def test_a_run_shows_its_result_and_curves(client: TestClient, paths: list[Path]) -> None:
    run = read_run(paths[0])
    shown = page(client, "/runs/0")
    assert f"{run.scores[-1][1].overall:.2f} %" in shown.text
    there = {drawing.alt: drawing.name for drawings in plots.OF_RUN.values() for drawing in drawings}
    told = {value for name, value in shown.attributes if name == "alt"}
    assert told == there.keys()
    for name in there.values():
        assert f"/runs/0/pictures/{name}.png" in shown.links


def test_the_overview_lists_every_run(client: TestClient) -> None:
    shown = page(client, "/")
    assert {"/runs/0", "/runs/1", "/runs/2"} <= set(shown.links)
    assert "2 of 2" in shown.text


def test_a_question_shows_every_answer_and_vote(client: TestClient, paths: list[Path]) -> None:
    question = read_run(paths[0]).iterations[2].questions[1]
    assert question.vote is not None
    shown = page(client, "/runs/0/iterations/2/questions/1")
    assert question.question in shown.text
    assert shown.text.count(str(question.vote.label)) >= question.vote.count
    assert all(answer in shown.text for answer, _ in question.vote.counts)
    assert f"{question.vote.count} of 10 votes" in shown.text
    assert "no votes" in page(client, "/runs/0/iterations/2/questions/0").text


def test_thousands_of_questions_come_in_pages(client: TestClient) -> None:
    shown = page(client, f"/runs/1/questions?iteration=1&page={MANY // PAGE}")
    assert f"{MANY - PAGE + 1}–{MANY} of {MANY}" in shown.text
    assert sum("/iterations/1/questions/" in link for link in set(shown.links)) == PAGE
    assert f"{MANY - PAGE + 1}–{MANY}" in page(client, "/runs/1/questions?iteration=1&page=99999").text


def test_two_iterations_stand_side_by_side(client: TestClient, paths: list[Path]) -> None:
    shown = page(client, "/compare?left=0.1&right=0.2").text
    first, second = read_run(paths[0]).iterations[1:]
    assert first.scores is not None
    assert second.scores is not None
    assert f"{second.scores.overall - first.scores.overall:+.2f}" in shown
    stages = comparison.measures(first, second)
    [level] = [measure for measure in stages["audit"] if measure.name == "level"]
    assert (level.left, level.right, level.difference) == (3.0, 4.0, 1.0)
    assert "evaluation" in stages
    assert not any("unix_s" in measure.name for measures in stages.values() for measure in measures)
    assert "No votes in this iteration." in page(client, "/compare?left=0.0&right=1.1").text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/runs/9", 404),
        ("/runs/-1", 404),
        ("/runs/..%2f..%2fetc%2fpasswd", 404),
        ("/runs/0x/questions", 400),
        ("/runs/0/questions?iteration=7", 404),
        ("/runs/0/questions?iteration=../../x", 400),
        ("/runs/0/questions?order=random", 400),
        (f"/runs/0/questions?text={'a' * 201}", 400),
        ("/runs/0/iterations/1/questions/999", 404),
        ("/compare?left=../../etc/passwd", 404),
        ("/runs/0/pictures/passwd.png", 404),
        ("/runs/1/pictures/accuracy.png", 404),
        ("/runs/0/iterations/0/agreement.png", 404),
        ("/comparison.png?runs=9", 404),
        ("/comparison.png?runs=1", 404),
        ("/docs", 404),
        ("/openapi.json", 404),
        ("/templates/base.html.j2", 404),
    ],
)
def test_what_is_not_there_is_said(client: TestClient, address: str, status: int) -> None:
    assert "Not here" in page(client, address, status=status).text


# -------------------------------------------------------------------------------------------------------------- safety


def test_model_text_stays_text(client: TestClient, paths: list[Path]) -> None:
    posed = read_run(paths[2]).iterations[1].questions
    addresses = [f"/runs/2/questions?iteration=1&page={number}" for number in range(1, -(-len(posed) // PAGE) + 1)]
    addresses += [f"/runs/2/iterations/1/questions/{question.index}" for question in posed[:: 1 + len(posed) // 20]]
    tame = ("/runs/0", "/runs/0/questions", "/runs/0/iterations/1/questions/1", "/compare?left=0.1&right=0.2")
    tags = {tag for address in tame for tag in page(client, address).tags}
    for address in [*addresses, "/", "/runs/2", "/compare?left=2.1&right=2.1"]:
        shown = page(client, address)
        assert shown.tags <= tags, address
        assert not any(name.startswith("on") or name == "style" for name, _ in shown.attributes)
        assert all(link.startswith("/") for link in shown.links)
        acting = [c for c in shown.text if unicodedata.category(c)[0] == "C" and c not in "\n\t"]
        assert not acting, address
    for index in (0, 1, 2, 3, 4, 5, 7):  # 6 holds characters that act instead of being seen
        assert HOSTILE[index] in page(client, f"/runs/2/iterations/1/questions/{index}").text
    assert "<b>evil</b> {{ 7 * 7 }}" in page(client, "/runs/2").text


def test_what_is_searched_for_is_text_too(client: TestClient) -> None:
    shown = page(client, "/runs/0/questions?text=%22%3E%3Cscript%3Ealert(1)%3C/script%3E%ED%A0%80&outcome=%3Cb%3E")
    assert "script" not in shown.tags
    assert "Nothing matches." in shown.text


def test_every_answer_forbids_what_did_not_come_from_here(client: TestClient) -> None:
    for address in ("/", "/runs/0", "/browse.css", "/runs/9", "/runs/x"):
        headers = client.get(address).headers
        assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert "default-src 'self'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", ""])
def test_a_foreign_name_gets_nothing(client: TestClient, host: str) -> None:
    answer = client.get("/runs/0", headers={"host": host})
    assert answer.status_code == 400
    assert "micro" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    assert client.request(method, "/runs/0").status_code == 405


# --------------------------------------------------------------------------------------------------------------- parts


def test_filters_and_orders() -> None:
    questions = make_questions(1, random.Random(0), candidates=90)
    counts = outcomes(questions)
    assert counts["all"] == counts["kept"] + counts["dropped"] == 90
    assert list(counts)[:3] == ["all", "kept", "dropped"]
    for outcome, count in counts.items():
        assert select(questions, Wanted(outcome=outcome)).found == count
    surest = select(questions, Wanted(order="surest")).questions
    agreements = [question.vote.agreement for question in surest if question.vote]
    assert agreements == sorted(agreements, reverse=True)
    disputed = select(questions, Wanted(order="most disputed", page=2)).questions
    assert disputed[-1].vote is None
    one = questions[1]
    assert one.vote is not None
    found = select(questions, Wanted(text=one.question[8:].upper())).questions
    assert one in found
    rare = select(questions, Wanted(text=one.vote.counts[-1][0]))
    assert one in rare.questions, "a minority answer is found as well"
    assert select(questions, Wanted(outcome="nonsense")).questions == []
    assert selection.select([], Wanted(page=3)).pages == 1


def test_pictures_are_those_of_the_report_and_drawn_once(client: TestClient, paths: list[Path]) -> None:
    run = read_run(paths[0])
    for address, draw in {
        "/runs/0/pictures/accuracy.png": lambda: plots.accuracy(run),
        "/runs/0/iterations/2/agreement.png": lambda: plots.histograms([run.iterations[2]], shaded=(0.25, 0.75)),
        "/comparison.png?runs=0&runs=0": lambda: plots.comparison([run, run]),
    }.items():
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == figures.png(draw), address
    one = Shelf(paths[:1])[0]
    assert one.drawn("x", lambda: plots.accuracy(run)) is one.drawn("x", lambda: pytest.fail("drawn twice"))


def test_the_histogram_holds_every_vote(paths: list[Path]) -> None:
    iteration = read_run(paths[0]).iterations[1]
    [axes] = plots.histograms([iteration], shaded=(0.25, 0.75)).axes
    bars = [bar.get_height() for container in axes.containers for bar in container]  # type: ignore[attr-defined]
    assert sum(bars) == sum(question.vote is not None for question in iteration.questions)


def test_a_run_that_goes_on_is_read_again(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.evaluate(0)
    shelf = Shelf([tmp_path / "run"])
    assert shelf[0] is shelf[0]
    assert shelf[0].run.done == 0
    writer.iterate(1)
    assert shelf[0].run.done == 1
    only = TestClient(create_app([tmp_path / "run"]), base_url="http://localhost", raise_server_exceptions=False)
    assert "micro, seed 0" in page(only, "/").text
    shutil.rmtree(tmp_path / "run")
    assert "is no run directory" in page(only, "/", status=500).text


# ------------------------------------------------------------------------------------------------------------- command


def test_the_command_names_what_is_wrong(paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([str(paths[0]), "--port", str(taken.getsockname()[1])]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(paths: list[Path]) -> Iterator[str]:
    """The address of a real server, which ends well on Ctrl-C."""
    command = [sys.executable, "-W", "ignore", "-m", "experiments.browse", *map(str, paths)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def test_the_server_listens_on_this_machine_only(server: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", server)
    with urllib.request.urlopen(server, timeout=30) as answer:
        assert "3 runs" in answer.read().decode()


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_a_real_browser_shows_it_without_complaint(server: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--enable-logging=stderr", "--window-size=1280,900", f"--screenshot={picture}"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, f"{server}runs/2/questions?iteration=1"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert picture.read_bytes().startswith(b"\x89PNG"), done.stderr
    complaints = [line for line in done.stderr.split("\n") if "CONSOLE" in line]
    assert not complaints, "the policy stopped something, or the page is wrong"
