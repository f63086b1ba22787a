"""The cards that the hub shows: of a model its scores, recipe and lineage, of the question set its columns and origin.

Every number comes from the run's files. Text of a model or a user is escaped where it stands in the Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from omegaconf import OmegaConf

from evaluation.metrics import Scores, gain
from experiments.publishing.lineage import UNKNOWN, Base
from experiments.publishing.privacy import belongs_here
from experiments.publishing.question_set import FILE, MEANINGS, QuestionSet
from experiments.reporting.data import Run, iteration_name
from experiments.reporting.markdown import markdown_table
from rzero.escaping import markdown_cell
from rzero.roles import Role

PAPER = "[R-Zero: Self-Evolving Reasoning LLM from Zero Data](https://arxiv.org/abs/2508.05004)"
RECIPE = "recipe.yaml"
TAGS = ["r-zero", "self-play", "grpo"]
EXAMPLES = 5
"""Questions shown on the data card."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = "1M<n<10M"
"""The hub's own names."""

_WHAT: dict[Role, str] = {
    "solver": "The Solver answers questions. It was trained on the pseudo-labels of its predecessor's majority vote.",
    "challenger": "The Challenger poses questions. It was paid where the Solver of the iteration before was undecided.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What all cards of a run speak of.

    until: the iteration that is published. names: kind -> hub id, empty without one.
    """

    run: Run
    base: Base
    until: int
    made_of: Sequence[tuple[str, str]]
    names: dict[str, str]

    @property
    def scores(self) -> list[tuple[int, Scores]]:
        return [(number, scores) for number, scores in self.run.scores if number <= self.until]

    @property
    def answers_known(self) -> bool:
        """Whether more than what only measures (benchmarks, audit) comes from the package that has true answers."""
        recipe = OmegaConf.to_container(self.run.config, resolve=False)
        assert isinstance(recipe, dict)
        return any(_names_evaluation(node) for key, node in recipe.items() if key not in ("benchmarks", "audit"))

    @property
    def name(self) -> str:
        """What the run is called, unless that is the name of a person or a machine."""
        return "R-Zero" if belongs_here(self.run.name) else self.run.name

    def title(self, kind: str) -> str:
        return markdown_cell(f"{kind.capitalize()} of {self.name}, iteration {self.until}")


def model_card(role: Role, of: Publication) -> ModelCard:
    """Returns the card of a role's weights."""
    scores = of.scores if role == "solver" else []
    licence = of.base.licence
    data = ModelCardData(
        base_model=of.base.hub_id,
        datasets=[of.names["questions"]] if "questions" in of.names else None,
        eval_results=_results(of, scores[-1][1]) if scores else None,
        library_name="transformers",
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        model_name=of.names.get(role, f"{of.name}-{role}"),
        pipeline_tag="text-generation",
        tags=TAGS,
    )
    parts = [f"# {of.title(role)}", _WHAT[role] + f" Method: {PAPER}.", _use(of.names.get(role, role))]
    parts += _scores(scores) if scores else _training(of)
    parts += [*_lineage(of), *_recipe(of), "## Limits", _limits(of), *_licence(of)]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def data_card(questions: QuestionSet, of: Publication) -> DatasetCard:
    """Returns the card of the question set."""
    licence, count = of.base.licence, len(questions.questions)
    data = DatasetCardData(
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        pretty_name=f"Questions of {of.name}",
        size_categories=[next((name for limit, name in _SIZES if count < limit), _LARGER)],
        task_categories=["text-generation"],
        tags=[*TAGS, "synthetic"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": FILE}]}],
    )
    posed = [
        [str(it.number), str(len(it.questions)), str(sum(q.iteration == it.number for q in questions.questions))]
        for it in of.run.trained
        if it.number <= of.until
    ]
    shown = [
        [markdown_cell(q.question), markdown_cell((q.vote and q.vote.label) or ""), f"{q.vote.agreement:.2f}"]
        for q in questions.questions[:EXAMPLES]
        if q.vote
    ]
    parts = [
        f"# {of.title('questions')}",
        "Questions that a Challenger posed and a Solver labelled by majority vote, both trained from one base model. "
        f"Method: {PAPER}. {_origin(of)}",
        "**The answers are pseudo-labels: what most votes said, right or wrong.** Questions are a model's text as it "
        "wrote it; nobody has read them for sense or for harm.",
        markdown_table(["column", "meaning"], [[f"`{name}`", text] for name, text in MEANINGS.items()], numeric=False),
        "## How many",
        markdown_table(["iteration", "posed", "kept, and here"], posed),
        f"{questions.left_out} more were kept and are left out: a question of a benchmark stands there, word for word.",
        "## The first of them",
        markdown_table(["problem", "answer", "score"], shown, numeric=False),
        *_lineage(of),
        *_recipe(of),
        *_licence(of),
    ]
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _names_evaluation(node: object) -> bool:
    if isinstance(node, dict | list):
        return any(_names_evaluation(value) for value in (node.values() if isinstance(node, dict) else node))
    return isinstance(node, str) and node.startswith("evaluation.")


def _results(of: Publication, scores: Scores) -> list[EvalResult]:
    """The headline columns of every benchmark, as the hub's model index has them."""
    hub = OmegaConf.select(of.run.config, "benchmarks.source.hub") or {}
    table = scores.table()
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=str(hub[benchmark.name].path) if benchmark.name in hub else benchmark.name,
            dataset_name=benchmark.name,
            metric_type="accuracy",
            metric_name=column,
            metric_value=round(table[benchmark.name][column], 2),
        )
        for benchmark in scores.benchmarks
        for column in scores.headline
    ]


def _scores(scores: Sequence[tuple[int, Scores]]) -> list[str]:
    last = scores[-1][1]
    tables = [(iteration_name(number), measured.table(), measured) for number, measured in scores]
    rows = [
        [markdown_cell(name), *(f"{_headline(table[name], of.headline):.2f}" for _, table, of in tables)]
        for name in tables[-1][1]
    ]
    parts = [
        "## Scores",
        f"Percent right, the mean of {' and '.join(last.headline)} with k up to {last.k}; the base model first.",
        markdown_table(["benchmark", *(name for name, _, _ in tables)], rows),
    ]
    if len(scores) > 1:
        change = gain(scores[0][1], last)
        parts.append(
            f"Overall {change.points:+.2f} points against the base model (95 % interval {change.low:+.2f} to "
            f"{change.high:+.2f}); right answers among well-formed ones contribute {change.among_well_formed:+.2f}, "
            f"format {change.format:+.2f}."
        )
    return parts


def _headline(row: dict[str, float], columns: Sequence[str]) -> float:
    return sum(row[column] for column in columns) / len(columns)


def _training(of: Publication) -> list[str]:
    """A Challenger has no benchmark: what its training ended with, and what became of its questions."""
    rows = [
        [
            str(it.number),
            str(len(it.challenger)),
            _number(it.challenger[-1].get("challenger/reward")) if it.challenger else "",
            _number(it.curriculum.get("curriculum/kept_fraction")),
            _number(it.curriculum.get("curriculum/agreement")),
        ]
        for it in of.run.trained
        if it.number <= of.until
    ]
    return [
        "## Training",
        markdown_table(["iteration", "steps", "last reward", "questions kept, share", "mean agreement"], rows),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _use(name: str) -> str:
    lines = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```",
        "",
        f"The request that it was trained with stands in `{RECIPE}` under `prompts`.",
    ]
    return "\n".join(lines)


def _lineage(of: Publication) -> list[str]:
    kinds = {"solver", "challenger", "questions"}
    elsewhere = [f"{kind}: `{name}`" for kind, name in of.names.items() if kind in kinds]
    base = markdown_cell(of.base.name)
    known = (
        f"Base model: [{base}](https://huggingface.co/{of.base.hub_id})." if of.base.hub_id else f"Base model: {base}."
    )
    parts = ["## Lineage", known + (f" Of the same run: {', '.join(elsewhere)}." if elsewhere else "")]
    return [*parts, markdown_table(["artifact", "made of"], of.made_of, numeric=False)]


def _recipe(of: Publication) -> list[str]:
    attempts = of.run.manifest.get("attempts", [])
    commits = dict.fromkeys(str(attempt.get("commit", "")) for attempt in attempts)
    versions = {"python": of.run.manifest.get("python", ""), **of.run.manifest.get("versions", {})}
    facts = {
        "run": of.name,
        "seed": str(of.run.seed),
        "iterations": f"{of.until} of {of.run.planned}",
        "commit": ", ".join(filter(None, commits)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    rows = [[name, markdown_cell(value)] for name, value in facts.items()]
    return ["## Recipe", f"`{RECIPE}` is the whole configuration.", markdown_table(["", ""], rows, numeric=False)]


def _limits(of: Publication) -> str:
    return (
        f"{_origin(of)} Nobody has looked at this model for harm, and the numbers above are of one run with one seed."
    )


def _origin(of: Publication) -> str:
    if of.answers_known:
        return "**A control: the recipe lets known answers reach training.**"
    return "Nothing but the models' own text went into training, mistakes included."


def _licence(of: Publication) -> list[str]:
    licence = of.base.licence
    said = f"`{markdown_cell(licence.id)}`, carried over from the card of the base model."
    if licence.id == UNKNOWN:
        said = "Unknown: no card of the base model was found that names one. Ask its makers before you use this."
    return ["## Licence", said]
