"""Every iteration from inside: questions, labels, rewards, examples, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from experiments.reporting.content import NOTHING, Cell, Section, Table, column_names, duration
from experiments.reporting.data import Iteration, Row, Run
from experiments.reporting.posed import Posed
from rzero.alarm import FAMILIES, LABEL_ACCURACY, RAISED
from rzero.curriculum import DROP_REASONS
from rzero.types import LabelledQuestion, Vote

EXAMPLES = 4
"""Questions of an iteration that are shown kept, and as many dropped."""

ROLES = ("challenger", "solver")
STEP_PARTS = ("rollout", "reward", "update")

Measure = Callable[[Iteration], str]


def measures(run: Run) -> Section:
    """One column an iteration. A line that no iteration can fill (no audit, an untrained Challenger) is left out."""
    if not run.trained:
        return Section(id="iterations", title="The iterations", paragraphs=("No iteration has begun yet.",))
    lines: dict[str, Measure] = {
        "candidates posed": _count("curriculum/candidates"),
        "well-formed (%)": _of_posed("well_formed"),
        "distinct among the well-formed (%)": _of_posed("distinct"),
        "agreement in the band (% of the posed)": _of_posed("in_band"),
        "kept": _kept,
        "distinct among the kept": _count("curriculum/distinct_kept"),
        **{f"dropped, {reason}": _count(f"curriculum/dropped/{reason}") for reason in _reasons(run)},
        "mean agreement (%)": _share("curriculum/agreement"),
        "well-posed (%)": _share("audit/well_posed"),
        "difficulty, posed (solution steps)": _value("audit/level"),
        "difficulty, kept (solution steps)": _value("audit/level_kept"),
        "pseudo-label accuracy, kept (%)": _share("audit/label_accuracy_kept"),
        "pseudo-label accuracy, posed (%)": _share("audit/label_accuracy"),
        "pseudo-label accuracy, estimated without an oracle (%)": _share(LABEL_ACCURACY),
        "families of questions, estimated": _value(FAMILIES),
        "collapse alarm": _raised,
        "Challenger's own answer right (%)": _share("audit/self_answer_accuracy"),
        **_training_measures("challenger"),
        **_training_measures("solver"),
    }
    rows = []
    for name, measure in lines.items():
        values = [measure(iteration) for iteration in run.trained]
        if any(value != NOTHING for value in values):
            rows.append([Cell(text=name), *(Cell(text=value) for value in values)])
    table = Table(
        heads=(("", ("", *column_names(run.trained))),),
        rows=rows,
        caption="Arrows go from the first training step of the phase to the last. Difficulty, well-posedness and label "
        "accuracy are measured by the oracle afterwards; training never sees them.",
    )
    return Section(id="iterations", title="The iterations", paragraphs=_meanings(run), tables=(table,))


def _training_measures(role: str) -> dict[str, Measure]:
    name = role.title()
    return {
        f"{name} training steps": lambda iteration: str(len(_rows(iteration, role)) or NOTHING),
        f"{name} reward": _change(role, "reward", ".3f"),
        f"{name} KL (nats per token)": _change(role, "kl", ".4f"),
        f"{name} response length (tokens)": _change(role, "completions/mean_length", ".1f"),
        f"{name} log-probs, engine from trainer (nats)": _change(role, "sampling/sampling_logp_difference/mean", ".2g"),
        f"{name} weights against that mismatch": _change(role, "sampling/importance_sampling_ratio/mean", ".4f"),
        f"{name} groups without a signal (%)": _change(role, "frac_reward_zero_std", ".0f", factor=100.0),
    }


def _rows(iteration: Iteration, role: str) -> Sequence[Row]:
    return iteration.challenger if role == "challenger" else iteration.solver


def _change(role: str, metric: str, form: str, *, factor: float = 1.0) -> Measure:
    def measure(iteration: Iteration) -> str:
        rows = _rows(iteration, role)
        if not rows:
            return NOTHING
        first, last = (row.get(f"{role}/{metric}") for row in (rows[0], rows[-1]))
        if first is None and last is None:
            return NOTHING
        return " → ".join(NOTHING if value is None else f"{factor * value:{form}}" for value in (first, last))

    return measure


def _value(metric: str, form: str = ".2f", *, factor: float = 1.0) -> Measure:
    def measure(iteration: Iteration) -> str:
        value = iteration.curriculum.get(metric)
        return NOTHING if value is None else f"{factor * value:{form}}"

    return measure


def _count(metric: str) -> Measure:
    return _value(metric, ".0f")


def _share(metric: str) -> Measure:
    return _value(metric, ".1f", factor=100.0)


def _of_posed(share: str) -> Measure:
    def measure(iteration: Iteration) -> str:
        found = Posed.of(iteration.questions)
        return NOTHING if found is None else f"{100 * getattr(found, share):.1f}"

    return measure


def _kept(iteration: Iteration) -> str:
    kept, fraction = iteration.curriculum.get("curriculum/kept"), iteration.curriculum.get("curriculum/kept_fraction")
    return NOTHING if kept is None or fraction is None else f"{kept:.0f} ({100 * fraction:.1f} %)"


def _raised(iteration: Iteration) -> str:
    return {None: NOTHING, 0.0: "quiet", 1.0: "raised"}[iteration.curriculum.get(RAISED)]


def _reasons(run: Run) -> list[str]:
    """Drop reasons that occurred, most frequent first."""
    counts: Counter[str] = Counter()
    for iteration in run.trained:
        for name, value in iteration.curriculum.items():
            if name.startswith("curriculum/dropped/"):
                counts[name.removeprefix("curriculum/dropped/")] += int(value or 0)
    return [reason for reason, _ in counts.most_common()]


def _meanings(run: Run) -> list[str]:
    known = [f"{reason}: {DROP_REASONS[reason]}" for reason in _reasons(run) if reason in DROP_REASONS]
    return ["Drop reasons. " + "; ".join(known) + "."] if known else []


# ------------------------------------------------------------------------------------------------------------ examples


def examples(run: Run) -> Section:
    """Some questions of each iteration with the Solver's votes on them: what the rewards were about."""
    tables = [_example_table(iteration) for iteration in run.trained if iteration.questions]
    if not tables:
        return Section(id="examples", title="Example questions", paragraphs=("No question has been posed yet.",))
    note = "Texts are the models' own, cut where they are long. The label is the answer with the most votes."
    return Section(id="examples", title="Example questions", paragraphs=(note,), tables=tables)


def _example_table(iteration: Iteration) -> Table:
    kept = sum(question.kept for question in iteration.questions)
    return Table(
        heads=(("", ("question", "label", "agreement", "votes", "Challenger's answer", "outcome")),),
        rows=[_example(question) for question in chosen(iteration.questions)],
        numeric=False,
        caption=f"{iteration.name.capitalize()}: {kept} of {len(iteration.questions)} kept.",
    )


def chosen(questions: Sequence[LabelledQuestion]) -> list[LabelledQuestion]:
    """Kept questions from the surest to the most disputed, then a dropped one for each of the commonest reasons."""
    kept = sorted((q for q in questions if q.kept), key=lambda q: -(q.vote.agreement if q.vote else 0.0))
    places = {round((len(kept) - 1) * i / (EXAMPLES - 1)) for i in range(EXAMPLES)} if kept else set()
    shown = [kept[place] for place in sorted(places)]
    first: dict[str, LabelledQuestion] = {}
    for question in questions:
        if question.drop_reason:
            first.setdefault(question.drop_reason, question)
    counts = Counter(question.drop_reason for question in questions if question.drop_reason)
    return shown + [first[reason] for reason, _ in counts.most_common(EXAMPLES)]


def _example(question: LabelledQuestion) -> list[Cell]:
    vote = question.vote
    return [
        Cell(text=cut(question.question, 400) or "(none)", model=True),
        Cell(text=cut(vote.label, 60) if vote and vote.label else NOTHING, model=True),
        Cell(text=f"{100 * vote.agreement:.0f} %" if vote else NOTHING),
        Cell(text=_votes(vote) if vote else NOTHING, model=True),
        Cell(text=cut(question.challenger_answer or NOTHING, 60), model=True),
        Cell(text="kept" if question.kept else f"dropped: {question.drop_reason}", best=question.kept),
    ]


def _votes(vote: Vote) -> str:
    """`12 ×7, 13 ×2, no answer ×1`: the largest clusters first."""
    clusters = sorted(vote.counts, key=lambda cluster: -cluster[1])
    shown = [f"{cut(answer, 40)} ×{count}" for answer, count in clusters[:6]]
    rest = sum(count for _, count in clusters[6:])
    silent = sum(answer is None for answer in vote.answers)
    return ", ".join(shown + [f"others ×{rest}"] * bool(rest) + [f"no answer ×{silent}"] * bool(silent))


def cut(text: str, length: int) -> str:
    """At most `length` characters, saying how many there were."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


# ---------------------------------------------------------------------------------------------------------------- time


def times(run: Run) -> Section:
    """Seconds of every completed stage, each stage's share of the whole, and what training steps spent them on."""
    if not run.stages:
        return Section(id="time", title="Time", paragraphs=("No stage is complete yet.",))
    seconds = {name: float(stage.get("seconds", 0.0)) for name, stage in run.stages.items()}
    whole = sum(seconds.values()) or 1.0
    rows = []
    for stage in dict.fromkeys(name.partition("/")[2] for name in ("/challenger", "/questions", "/solver", *seconds)):
        per_iteration = [seconds.get(f"{iteration.number}/{stage}") for iteration in run.iterations]
        total = sum(value or 0.0 for value in per_iteration)
        cells = [Cell(text=NOTHING if value is None else duration(value)) for value in per_iteration]
        if total:
            rows.append([Cell(text=stage), *cells, Cell(text=f"{duration(total)} ({100 * total / whole:.0f} %)")])
    heads = (("", ("stage", *column_names(run.iterations), "together")),)
    by_stage = Table(heads=heads, rows=rows, caption=f"Together {duration(whole)}.")
    return Section(id="time", title="Time", tables=(by_stage, *_step_times(run)))


def _step_times(run: Run) -> list[Table]:
    """Parts of the training steps of both roles over all iterations; no table where the run has not recorded them."""
    cells = [_step_cells(role, [row for iteration in run.trained for row in _rows(iteration, role)]) for role in ROLES]
    rows = [row for row in cells if row]
    heads = (("", ("training steps", *STEP_PARTS, "completion tokens", "tokens/s drawn", "tokens/s in all")),)
    caption = (
        "What a training step spends its time on: drawing its completions, paying for them (the Challenger's reward "
    )
    caption += "includes the Solver's votes), and learning. Votes are not among the completion tokens."
    return [Table(heads=heads, rows=rows, caption=caption)] if rows else []


def _step_cells(role: str, rows: Sequence[Row]) -> list[Cell]:
    def total(metric: str) -> float:
        return sum(row.get(f"{role}/{metric}") or 0.0 for row in rows)

    step, tokens = total("timing_s/step"), total("num_tokens")
    parts = {part: total(f"timing_s/{part}") for part in STEP_PARTS}
    if not step or not parts["rollout"]:
        return []
    shares = [f"{duration(seconds)} ({100 * seconds / step:.1f} %)" for seconds in parts.values()]
    speeds = [f"{tokens:.0f}", f"{tokens / parts['rollout']:.0f}", f"{tokens / step:.0f}"]
    return [Cell(text=text) for text in (role.title(), *shares, *speeds)]
