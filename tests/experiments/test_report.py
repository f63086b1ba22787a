"""Reports of complete, unfinished, empty and hostile runs, and of several at once."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from statistics import fmean

import pytest
from omegaconf import OmegaConf

from evaluation.contamination import overlaps
from evaluation.metrics import spread
from evaluation.problems import Benchmark, BenchmarkItem
from experiments import PROJECT
from experiments.report import main, write_report
from experiments.reporting import iterations
from experiments.reporting.data import band, read_run
from experiments.reporting.posed import prompts_of, worked_examples
from rzero.runs.directory import RunDirectory
from tests.experiments.hostile import hostile_questions
from tests.experiments.runs import RunWriter, finished_run, make_config, make_questions

PICTURES = {"accuracy.png", "questions.png", "agreement.png", "rewards.png", "training.png"}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report in its own directory."""
    path = tmp_path_factory.mktemp("runs") / "complete"
    finished_run(path)
    write_report([path], output=path)
    return path


def test_a_complete_run_has_all_parts(complete: Path) -> None:
    html, markdown = (complete / "report.html").read_text(), (complete / "report.md").read_text()
    assert {path.name for path in complete.glob("*.png")} == PICTURES
    for name in PICTURES:
        assert f"]({name})" in markdown
    assert html.count("data:image/png;base64,iVBOR") == len(PICTURES)
    for text in (html, markdown):
        assert all(name in text for name in ("MATH AVG", "GENERAL AVG", "Overall AVG", "pass@k"))
        assert all(fact in text for fact in ("6 min 40 s", "1.25 GiB", "1.75 GiB", "0123456789ab+changes"))


def test_time_is_given_by_part_of_a_step_with_tokens_per_second(complete: Path) -> None:
    """Two iterations of 4 steps of 10 s and 100 tokens each."""
    line = next(row for row in (complete / "report.md").read_text().split("\n") if row.startswith("| Challenger | "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["40 s (50.0 %)", "24 s (30.0 %)", "16 s (20.0 %)", "800", "20", "10"]


def test_the_result_is_the_one_of_the_metrics(complete: Path) -> None:
    run = read_run(complete)
    assert run.base is not None
    markdown = (complete / "report.md").read_text()
    for _, scores in run.scores:
        assert f"{scores.overall:.2f}" in markdown
    last = run.scores[-1][1]
    assert f"{last.overall - run.base.overall:+.2f} points" in markdown
    row = next(line for line in markdown.split("\n") if line.startswith("| MATH AVG"))
    best = last.table()["MATH AVG"]
    assert row.endswith(f"| **{best['greedy']:.1f}** | **{best['mean@k']:.1f}** |")


def test_truncated_shares_stand_beside_each_score(complete: Path, tmp_path: Path) -> None:
    """olmo-eval#399: a third of the answers cut at the limit, and nothing said. Older runs did not write it down."""
    run = finished_run(tmp_path / "run")
    there = RunDirectory(run.path)
    names = [benchmark["name"] for benchmark in json.loads(there.scores(0).read_text())["benchmarks"]]
    for iteration in (0, 1):
        data = json.loads(there.scores(iteration).read_text())
        shares = {name: {"greedy": 0.25 * iteration, "sampled": 0.325} for name in names}
        there.scores(iteration).write_text(json.dumps({**data, "truncated": shares}))
    write_report([run.path], output=run.path)
    markdown = (run.path / "report.md").read_text()
    row = next(line for line in markdown.split("\n") if line.startswith(f"| {names[0]} "))
    cells = [cell.strip(" *") for cell in row.strip("|").split("|")]
    assert (cells[3], cells[6], cells[9]) == ("0.0 / 32.5", "25.0 / 32.5", "–")
    assert "Truncated: responses that ran into the token limit" in markdown
    assert "runcated" not in (complete / "report.md").read_text()


def test_html_needs_nothing_from_elsewhere(complete: Path) -> None:
    html = (complete / "report.html").read_text()
    assert "<script" not in html
    assert not re.search(r'(?:src|href)\s*=(?!"data:|"#)', html)
    assert "@import" not in html
    assert "url(" not in html


def test_the_same_run_gives_the_same_report(complete: Path, tmp_path: Path) -> None:
    write_report([complete], output=tmp_path)
    for name in ("report.html", "report.md", *PICTURES):
        assert (tmp_path / name).read_bytes() == (complete / name).read_bytes()


def test_model_text_stays_text(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", name="<b>micro</b> | {{ 7 * 7 }}")
    writer.evaluate(0)
    writer.pose(1, hostile_questions)
    writer.pose(2, lambda iteration, rng: hostile_questions(iteration, rng)[::-1])
    path = write_report([tmp_path / "run"], output=tmp_path / "out")
    html, markdown = path.read_text(encoding="utf-8"), (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for tag in ("<script", "<b>", "<img src=http", "</body> &amp;"):
        assert tag not in html
    assert not re.search(r"<(?!br)", markdown)
    assert "&lt;script&gt;alert(1)" in html
    assert "{{ 7 * 7 }}" in html
    assert "${oc.env:HOME}" in html
    for text in (html, markdown):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\u2066\ud800-\udfff]", text)
    assert "\n# heading" not in markdown
    assert not re.search(r"(?<!\\)!?\[[^\]]*\]\((?!\w+\.png\))", markdown)


def test_markdown_tables_stay_whole(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.pose(1, hostile_questions)
    write_report([tmp_path / "run"], output=tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").split("\n")
    start = next(index for index, line in enumerate(lines) if line.startswith("| question"))
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[start : lines.index("", start)]]
    assert cells == [7] * (2 + 8)


@pytest.mark.parametrize("stages", range(6))
def test_an_unfinished_run_is_reported_as_far_as_it_got(tmp_path: Path, stages: int) -> None:
    writer = RunWriter(tmp_path / "run")
    work = [
        lambda: writer.manifest(finished=False),
        lambda: writer.evaluate(0),
        lambda: writer.train(1, "challenger", steps=1),
        lambda: writer.pose(1, audited=False),
        lambda: writer.train(1, "solver", steps=2),
    ]
    for stage in work[:stages]:
        stage()
    path = write_report([tmp_path / "run"], output=tmp_path / "run")
    assert path.is_file()
    assert "0 of 2 (not finished)" in path.read_text()


def test_an_iteration_that_kept_nothing_says_so(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.evaluate(0)
    writer.pose(1, lambda iteration, rng: [q for q in make_questions(iteration, rng) if not q.kept])
    text = write_report([tmp_path / "run"], output=tmp_path / "run").read_text()
    assert "Iteration 1 kept none of its" in text
    assert "below_band" in text


def test_half_a_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.train(1, "challenger", steps=3)
    with open(tmp_path / "run" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 9, "iteration": 1.0, "challenger/rew')
    assert len(read_run(tmp_path / "run").iterations[1].challenger) == 3


def test_missing_numbers_leave_gaps(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.log(1, {"solver/reward": float("nan")})
    assert write_report([tmp_path / "run"], output=tmp_path).is_file()


def test_several_seeds_are_averaged_and_other_recipes_are_not(tmp_path: Path) -> None:
    seeds = [finished_run(tmp_path / f"seed{seed}", seed=seed).path for seed in (0, 1)]
    control = finished_run(tmp_path / "control", name="random_reward", reward="random").path
    write_report([*seeds, control], output=tmp_path / "out")
    markdown = (tmp_path / "out" / "report.md").read_text()
    overall = [run.scores[-1][1].overall for run in map(read_run, seeds)]
    assert f"**{fmean(overall):.2f} ± {spread(overall):.2f}**" in markdown
    assert markdown.count("mean of 2 ± spread") == 2  # of the iterations and of the gain
    assert "random_reward, seed 0" in markdown.replace("\\", "")
    assert {f"run{number}_accuracy.png" for number in (1, 2, 3)} <= {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"band": {"centre": 0.5, "half_width": 0.25}}, (0.25, 0.75)),
        ({"band": {"low": 0.3, "high": 0.8}}, (0.3, 0.8)),
        ({"rule": {"rule": {"band": {"low": 0.1, "high": 0.2}}}}, (0.1, 0.2)),
        ({"band": {"centre": "${seed}", "half_width": 0.1}}, (-0.1, 0.1)),
        ({}, None),
    ],
)
def test_band_of_a_configuration(rule: dict[str, object], expected: tuple[float, float] | None) -> None:
    assert band(OmegaConf.create(make_config(curriculum={"rule": rule}))) == expected


def test_examples_show_kept_and_dropped_questions() -> None:
    questions = make_questions(1, random.Random(0))
    shown = iterations.chosen(questions)
    assert len([q for q in shown if q.kept]) == iterations.EXAMPLES
    assert {q.drop_reason for q in shown} == {None, "no_question", "below_band", "above_band"}
    assert iterations.chosen([]) == []


def test_a_result_says_what_the_challenger_was_shown_and_how_answers_were_asked_for(tmp_path: Path) -> None:
    school = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "prompts" / "school.yaml"))
    run = finished_run(tmp_path / "run", prompts=school)
    text = write_report([run.path], output=run.path).with_suffix(".md").read_text()
    assert "The Challenger's prompt holds 2 worked examples." in text
    assert "the question alone, “Please reason step by step" in text
    measures = iterations.measures(read_run(run.path)).tables[0].rows
    shown = {cells[0].text: [cell.text for cell in cells[1:]] for cells in measures}
    for number, questions in enumerate(read_run(run.path).trained):
        asked = [question for question in questions.questions if question.vote]  # 7 of 60 have no question block
        inside = sum(question.kept for question in asked)
        assert shown["well-formed (%)"][number] == f"{100 * 53 / 60:.1f}"
        assert shown["agreement in the band (% of the posed)"][number] == f"{100 * inside / 60:.1f}"
        texts = len({question.question for question in asked})
        assert shown["distinct among the well-formed (%)"][number] == f"{100 * texts / 53:.1f}"


def test_worked_examples_are_counted_and_are_no_benchmark_questions() -> None:
    """Our own texts: none shares 13 words in a row with a benchmark, or half of its runs of four with GSM8K."""
    asked: list[str] = []
    for name, number in {"school": 2, "base_model": 3, "default": 0, "micro": 0}.items():
        node = OmegaConf.load(PROJECT / "conf" / "prompts" / f"{name}.yaml")
        prompts = prompts_of(OmegaConf.create({"prompts": node}))
        assert prompts is not None
        shown, request = worked_examples(prompts), prompts.challenger()
        assert len(shown) == number, name
        asked += [*shown, *filter(None, (request.system, request.user))]
    folder = PROJECT.parent / "shared" / "benchmarks"
    if not folder.is_dir():
        pytest.skip("../shared/benchmarks is absent: nothing to compare with")
    benchmarks = [
        Benchmark(
            name=path.stem,
            group="math",
            items=tuple(
                BenchmarkItem(id=str(number), question=json.loads(line)["problem"], answer="", level=0)
                for number, line in enumerate(path.read_bytes().split(b"\n"))
                if line
            ),
        )
        for path in sorted(folder.glob("*.jsonl"))
    ]
    assert sum(len(benchmark.items) for benchmark in benchmarks) > 2000
    assert not any(found.overlapping for found in overlaps(asked, benchmarks))
    school = [benchmark for benchmark in benchmarks if benchmark.name == "gsm8k"]
    assert not any(found.contained for found in overlaps(asked, school, n=4, share=0.5))
    copied = benchmarks[0].items[0].question
    assert any(found.contained for found in overlaps([copied], benchmarks[:1])), "a copy would be found"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunWriter(tmp_path / "run")
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "new" / "folder")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'new' / 'folder' / 'report.html'}\n"


def test_command_names_what_is_wrong(complete: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(complete), "--output", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(complete), str(complete)])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.evaluate(0)
    (tmp_path / "run" / "iteration_0" / "evaluation.json").write_text('{"k": 8}')
    with pytest.raises(ValueError, match=r"evaluation\.json holds no scores"):
        write_report([tmp_path / "run"], output=tmp_path)
