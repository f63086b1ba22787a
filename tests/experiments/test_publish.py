"""What is published of a run: what the hub's own readers make of it, and what it never tells. The hub is a stub."""

from __future__ import annotations

import getpass
import json
import random
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard, constants
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.publish import main
from experiments.publishing.cards import Publication, model_card
from experiments.publishing.lineage import Base, Licence, read_base
from experiments.publishing.privacy import WITHHELD, belongs_here, public_recipe
from experiments.publishing.question_set import MEANINGS
from experiments.reporting.data import read_run
from rzero.adapters import adapter_weights
from rzero.durable import fingerprints
from rzero.escaping import markdown_cell
from rzero.gathering import merged_weights
from rzero.policy import load_policy
from rzero.runs.ledger import Ledger
from rzero.types import LabelledQuestion, Vote
from tests.experiments.hostile import HOSTILE, hostile_questions
from tests.experiments.runs import RunWriter, make_questions
from tests.experiments.small import config
from tests.experiments.stub_hub import TOKEN, StubHub, stub_hub
from tests.tiny_models import build_policy

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client, in an upload
USER, HOST = "zaphod-b", "magrathea7"
LORA = {"rank": 2, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]}
CARD = "---\nlicense: other\nlicense_name: of-the-guide\nlicense_link: https://example.org/guide\n---\n# A base\n"
ITEMS = "benchmarks.source.source.items=3"


@dataclass(frozen=True)
class Made:
    """A finished run with adapters in the home of somebody, and what was published of it."""

    home: Path
    run: Path
    benchmark: str
    questions: tuple[LabelledQuestion, ...]

    @property
    def published(self) -> Path:
        return self.run / "published"


def labelled(iteration: int, index: int, text: str) -> LabelledQuestion:
    vote = Vote(label="4", count=2, divisor=4, counts=(("4", 2), ("5", 2)), answers=("4", "4", "5", "5"))
    return LabelledQuestion(
        iteration=iteration, index=index, question=text, challenger_answer="4", vote=vote, drop_reason=None
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    home = tmp_path_factory.mktemp("home") / USER
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setattr(getpass, "getuser", lambda: USER)
        patch.setattr(socket, "gethostname", lambda: f"{HOST}.example.org")
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "no_token"))
        base = home / "models" / "own_base"
        policy = build_policy("qwen3_tied")
        policy.save(base)
        (base / "README.md").write_text(CARD, encoding="utf-8")
        (base / "LICENSE").write_text("Don't panic.\n", encoding="utf-8")
        cfg = config(
            f"policy.path_or_id={base}", ITEMS, "grader=exact", "iterations=2", "engine=vllm_server",
            f"engine.host.urls=[http://{HOST}:8000]", f"engine.host.exchange={home}/exchange",
        )  # fmt: skip
        cfg.policy.lora = LORA
        asked = instantiate(cfg.benchmarks.source.source)[0].items[0].question
        run = written_run(home / "run", OmegaConf.to_container(cfg, resolve=False), asked=asked)  # type: ignore[arg-type]
        adapted = load_policy(base, dtype="float32", attn_implementation="sdpa", lora=LORA)
        for iteration in (1, 2):
            for role in ("challenger", "solver"):
                for name, tensor in adapter_weights(adapted.model).items():
                    tensor.fill_(0.05 * iteration if "lora_A" in name else 0.2 if role == "solver" else 0.1)
                adapted.save(run.path / f"iteration_{iteration}" / role)
        assert main([str(run.path)]) == 0
        yield Made(home=home, run=run.path, benchmark=asked, questions=tuple(run.posed))


class Writer(RunWriter):
    """A run whose second iteration kept hostile texts, a question of a benchmark, and one of the first's again."""

    def __init__(self, path: Path, asked: str, **config: object) -> None:
        super().__init__(path, **config)
        self.asked, self.posed = asked, list[LabelledQuestion]()

    def questions(self, iteration: int, rng: random.Random) -> list[LabelledQuestion]:
        if iteration == 1:
            return make_questions(1, rng, candidates=12)
        hostile = [replace(question, drop_reason=None) for question in hostile_questions(2, rng)]
        return [labelled(2, 100, "What is 2 + 2?"), *hostile, labelled(2, 101, f"Well: {self.asked.upper()}  Or so.")]


def written_run(path: Path, settings: dict[str, object], *, asked: str) -> Writer:
    writer = Writer(path, asked, **settings)
    writer.evaluate(0)
    for iteration in (1, 2):
        writer.train(iteration, "challenger", steps=2)
        writer.posed += writer.pose(iteration, writer.questions, audited=False)
        writer.train(iteration, "solver", steps=2)
        writer.evaluate(iteration)
    writer.manifest(finished=True)
    return writer


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_the_folder_is_what_the_hub_expects(made: Made) -> None:
    names = {str(path.relative_to(made.published)) for path in files(made.published)}
    model = {"README.md", "recipe.yaml", "LICENSE", "config.json", "generation_config.json", "model.safetensors"}
    model |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {f"{role}/{name}" for role in ("solver", "challenger") for name in model} <= names
    assert {name for name in names if name.startswith("questions/")} == {
        "questions/README.md", "questions/recipe.yaml", "questions/data/train-00000-of-00001.parquet",
    }  # fmt: skip
    assert not any("adapter" in name for name in names)


@pytest.mark.parametrize("role", ["solver", "challenger"])
def test_transformers_reads_the_merged_weights(made: Made, role: str) -> None:
    found = AutoModelForCausalLM.from_pretrained(made.published / role, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(made.published / role, local_files_only=True)
    assert tokenizer("7").input_ids
    own = load_policy(made.run / "iteration_2" / role, dtype="float32", attn_implementation="sdpa")
    for name, tensor in merged_weights(own.model).items():
        torch.testing.assert_close(found.state_dict()[name], tensor)


def test_datasets_reads_the_kept_questions(made: Made, tmp_path: Path) -> None:
    rows = datasets.load_dataset(str(made.published / "questions"), split="train", cache_dir=str(tmp_path))
    assert rows.column_names == list(MEANINGS)
    kept = [q for q in made.questions if q.kept and q.vote and q.index != 101]
    assert [(row["iteration"], row["index"]) for row in rows] == [(q.iteration, q.index) for q in kept]
    assert [row["problem"] for row in rows] == [q.question.replace("\ud800", "\ufffd") for q in kept]
    first, vote = rows[0], kept[0].vote
    assert vote is not None
    assert (first["answer"], first["score"], first["votes_for"], first["votes"]) == (
        vote.label, vote.agreement, vote.count, vote.divisor,
    )  # fmt: skip


def test_nothing_tells_of_this_place_or_of_a_benchmark(made: Made, tmp_path: Path) -> None:
    rows = datasets.load_dataset(str(made.published / "questions"), split="train", cache_dir=str(tmp_path))
    assert made.benchmark.casefold() not in " ".join(rows["problem"]).casefold()
    secrets = [str(made.home), str(made.run), str(tmp_path.parent), USER, HOST, made.benchmark]
    for path in files(made.published):
        content = path.read_bytes()
        for secret in secrets:
            assert secret.casefold().encode() not in content.lower(), f"{path.name} tells {secret}"
    card = (made.published / "questions" / "README.md").read_text(encoding="utf-8")
    assert "1 more were kept and are left out" in card


def test_the_cards_say_what_the_files_of_the_run_say(made: Made) -> None:
    card = ModelCard.load(made.published / "solver" / "README.md")
    assert card.data.base_model is None, "the hub does not have a model of this machine"
    assert (card.data.license, card.data.license_name, card.data.license_link) == (
        "other", "of-the-guide", "https://example.org/guide",
    )  # fmt: skip
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    scores = json.loads((made.run / "iteration_2" / "evaluation.json").read_text())
    measured = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results or ()}
    assert measured == {
        (benchmark, column): round(scores["table"][benchmark][column], 2)
        for benchmark in ("sum", "digit", "order", "story")
        for column in ("greedy", "mean@k")
    }
    base = json.loads((made.run / "iteration_0" / "evaluation.json").read_text())
    row = scores["table"]["Overall AVG"]
    assert f"{(row['greedy'] + row['mean@k']) / 2:.2f} |" in card.text
    assert f"Overall {scores['overall'] - base['overall']:+.2f} points" in card.text
    assert "| solver_2 | solver_1, trained on questions_2 |" in card.text
    assert "| challenger_2 | challenger_1, rewarded by solver_1 |" in card.text
    assert "| questions_1 | challenger_1, labelled by base |" in card.text
    assert "Base model: own\\_base." in card.text
    assert "0123456789abcdef0123\\+changes" in card.text
    challenger = ModelCard.load(made.published / "challenger" / "README.md")
    assert challenger.data.eval_results is None, "a Challenger answers no benchmark"
    assert "| 2 | 2 | 0.420 |" in challenger.text
    data = DatasetCard.load(made.published / "questions" / "README.md")
    assert (data.data.license, data.data.size_categories) == ("other", ["n<1K"])
    assert "| 2 | 10 | 9 |" in data.text


def test_a_base_on_the_hub_and_a_control_are_named(made: Made) -> None:
    licence = Licence(id="apache-2.0")
    base = Base(name="owner/base", hub_id="owner/base", licence=licence)
    run = read_run(made.run)
    of = Publication(run=run, base=base, until=1, made_of=[], names={})
    card = model_card("solver", of)
    assert (card.data.base_model, card.data.license, card.data.datasets) == ("owner/base", "apache-2.0", None)
    assert "[owner/base](https://huggingface.co/owner/base)" in card.text
    assert "iteration 2" not in card.text, "of the iteration that is published, and none after it"
    assert "Nothing but the models' own text went into training" in card.text
    run.config.curriculum.rule = {"_target_": "evaluation.micro.controls.Labelled"}
    assert "A control: the recipe lets known answers reach training" in model_card("solver", of).text


def test_a_models_text_is_no_markup_on_the_card(made: Made) -> None:
    text = (made.published / "questions" / "README.md").read_text(encoding="utf-8")
    run = made.run.parent / "hostile"
    shutil.copytree(made.run, run, ignore=shutil.ignore_patterns("published"))
    (run / "questions" / "questions_1.jsonl").write_text("")  # so that the hostile ones are the first
    assert main([str(run)]) == 0
    text = (run / "published" / "questions" / "README.md").read_text(encoding="utf-8")
    for hostile in HOSTILE[:4]:
        assert markdown_cell(hostile) in text
    for active in ("<script", "<img", "</table>", "![picture", "](javascript", "\x1b", "\u202e"):
        assert active not in text
    assert DatasetCard(text).data.license == "other"


def test_the_recipe_composes_without_what_belongs_to_this_place(made: Made) -> None:
    recipe = OmegaConf.load(made.published / "solver" / "recipe.yaml")
    assert recipe.policy.path_or_id == WITHHELD
    assert (recipe.engine.host.urls, recipe.engine.host.exchange) == ([WITHHELD], WITHHELD)
    assert recipe.solver.settings.steps == config().solver.settings.steps
    assert recipe.policy.lora.rank == 2
    prompts = OmegaConf.to_container(config().prompts, resolve=False)
    assert public_recipe(config())["prompts"] == prompts, "what the models are asked is told in full"


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("/data/x", True), ("~/x", True), ("./x", True), ("C:\\x", True), ("http://a:1", True), (f"{USER}_run", True),
        (f"gpu.{HOST}", True), ("Qwen/Qwen3-4B-Base", False), ("${project:}/models/micro", False),
        ("torch.optim.AdamW", False),
        (f"asks {USER} for the square root", False), ("1/2 of it", False), ("", False),
    ],
)  # fmt: skip
def test_what_belongs_to_this_place(made: Made, text: str, private: bool) -> None:
    assert belongs_here(text) == private


# ----------------------------------------------------------------------------------------------------------------- push


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    with stub_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_the_licence_of_a_base_on_the_hub_is_that_of_its_card(
    hub: StubHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cfg = config("policy.path_or_id=owner/base")
    assert read_base(cfg).licence.id == "unknown", "no such repository"
    hub.files["models/owner/base"] = {
        "README.md": b"---\nlicense: apache-2.0\n---\n", "LICENSE": b"Text.", "config.json": b"{}",
    }  # fmt: skip
    base = read_base(cfg)
    assert (base.hub_id, base.licence.id) == ("owner/base", "apache-2.0")
    assert [path.read_bytes() for path in base.licence.files] == [b"Text."]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert read_base(cfg) == base, "from the cache"


def test_a_card_of_the_base_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: its metadata cannot be read"):
        read_base(config(f"policy.path_or_id={tmp_path}"))


def test_a_push_makes_three_repositories_with_what_is_on_disk(
    made: Made, hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "sent"
    assert main([str(made.run), "--push", "owner/name", "--private", "--output", str(target)]) == 0
    repositories = {"solver": "models/owner/name-solver", "challenger": "models/owner/name-challenger"}
    repositories["questions"] = "datasets/owner/name-questions"
    assert set(hub.files) == hub.private == set(repositories.values())
    for kind, name in repositories.items():
        local = {path.relative_to(target / kind).as_posix(): path.read_bytes() for path in files(target / kind)}
        assert hub.files[name] == local
    card = ModelCard((target / "solver" / "README.md").read_text(encoding="utf-8"))
    assert card.data.datasets == ["owner/name-questions"]
    assert 'from_pretrained("owner/name-solver")' in card.text
    assert "pushed: " in capsys.readouterr().out

    assert main([str(made.run), "--push", "owner/name", "--output", str(target)]) == 2
    assert_one_line(capsys, "owner/name-solver exists on the hub already")
    hub.files["models/owner/name-solver"].clear()
    assert main([str(made.run), "--push", "owner/name", "--update", "--output", str(target)]) == 0
    assert "README.md" in hub.files["models/owner/name-solver"]


def assert_one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.strip()]
    for word in words:
        assert word in line


def test_a_hub_that_refuses_or_is_not_there_leaves_the_folder(
    made: Made, hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fails_on = "/commit/"
    assert main([str(made.run), "--push", "owner/name", "--output", str(tmp_path / "a")]) == 2
    assert_one_line(capsys, "the hub refuses", "403", "--update goes on")
    assert (tmp_path / "a" / "solver" / "README.md").is_file()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert main([str(made.run), "--push", "owner/name", "--output", str(tmp_path / "b")]) == 2
    assert_one_line(capsys, "the hub cannot be reached")
    names = {path.relative_to(tmp_path / "b") for path in files(tmp_path / "b")}
    assert names == {path.relative_to(made.published) for path in files(made.published)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--push", "owner"], ["--push needs owner/name, got 'owner'"]),
        (["--push", "owner/na--me"], ["owner/na--me-solver"]),
        (["--push", "owner/name"], ["needs a token", "HF_TOKEN"]),
        (["--iteration", "3"], ["has iterations 1 to 2, not 3"]),
        (["--output", "{run}"], ["holds other things"]),
    ],
)
def test_what_cannot_be_published_is_one_line(
    made: Made, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(made.run), *(argument.format(run=made.run) for argument in arguments)]) == 2
    assert_one_line(capsys, *words)


def test_a_run_that_is_none_or_not_finished_or_damaged_is_one_line(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert_one_line(capsys, "is no run directory")
    run = tmp_path / "run"
    shutil.copytree(made.run, run, ignore=shutil.ignore_patterns("published"))
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-9])
    assert main([str(run)]) == 2
    assert_one_line(capsys, "is damaged", "metrics.jsonl")
    shutil.copy(made.run / "metrics.jsonl", run)
    ledger = Ledger.open(run / "state.json")
    for number in (1, 2):
        folder = run / f"iteration_{number}" / "solver"
        committed = fingerprints([folder], root=run)
        ledger.complete(f"{number}/solver", {}, files=committed, metrics=ledger.last.metrics)
        (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    assert main([str(run)]) == 2
    assert_one_line(capsys, "is damaged", "iteration_2/solver/adapter_model.safetensors")
    manifest = json.loads((run / "run.json").read_text()) | {"finished": False}
    (run / "run.json").write_text(json.dumps(manifest))
    assert main([str(run)]) == 2
    assert_one_line(capsys, "is not finished", f"resume={run}")
    (run / "run.json").write_text(json.dumps(manifest | {"finished": True}))
    for folder in run.glob("iteration_*/*/"):
        shutil.rmtree(folder)
    assert main([str(run)]) == 2
    assert_one_line(capsys, "neither role was trained")
    assert not (run / "published").exists()
