"""The figures of the study, from the runs that are kept; what needs a run that is not there is None."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from textwrap import fill

from matplotlib.figure import Figure
from omegaconf import DictConfig

from evaluation.metrics import Gain, Scores, gain, mean_gain, spread
from experiments import PROJECT, readme
from experiments.reporting.figures import Line, Point, by_iteration, save
from experiments.reporting.markdown import markdown_table
from experiments.reporting.posed import prompts_of, said, worked_examples
from experiments.reproduce.compact import Kept
from experiments.reproduce.half_billion.study import (
    HEADLINE,
    NEARLY_GREEDY,
    STUDY,
    TITLES,
    colder_base,
    only,
    score,
    temperatures,
)
from experiments.runs import average_iterations, average_table, knows_peak, said_minutes, said_peak
from rzero.escaping import markdown_cell
from rzero.types import Json

MAIN = "rzero"
BESIDE = "math500"
FIGURE = STUDY.root / STUDY.name / "figure.png"

Arms = Mapping[str, Sequence[Kept]]
"""Kept runs by arm, in the order of their seeds."""


def kept(seeds: Sequence[int]) -> dict[str, list[Kept]]:
    """Return the runs of these seeds that are kept. Nothing is started."""
    return {name: STUDY.kept(name, seeds) for name in STUDY.arms}


def missing(seeds: Sequence[int]) -> list[str]:
    """Return each run of these seeds that is not kept, with the reason."""
    runs = STUDY.runs(seeds=seeds)
    return [f"{TITLES[name]}, seed {seed}: {why}" for name, seed in runs if (why := STUDY.lacks(name, seed))]


def figures(runs: Arms, seeds: Sequence[int]) -> Json:
    """Return the keys of `experiments.results micro` and more.

    The figure that counts is the mean of greedy and mean@4 on GSM8K. The gain of an arm is None unless all of its seeds
    among `seeds` are kept. interval: of the mean gain over seeds, items drawn again in pairs; intervals: of each seed.
    """
    whole = {name: len(runs[name]) == len(_wanted(name, seeds)) > 0 for name in STUDY.arms}
    last = {name: [_gain(run) for run in group] for name, group in runs.items()}
    main = runs[MAIN] if whole[MAIN] else []
    mean = mean_gain([_ends(run, HEADLINE) for run in main]) if main else None
    controls = [name for name in STUDY.arms if name != MAIN]
    every = [run for group in runs.values() for run in group]
    return {
        "mean_gain": mean and mean.points,
        "min_gain": min(g.points for g in last[MAIN]) if main else None,
        "spread_gain": spread([g.points for g in last[MAIN]]) if main else None,
        "interval": mean and (mean.low, mean.high),
        "intervals": [(g.low, g.high) for g in last[MAIN]] if main else None,
        "gain_among_well_formed": mean and mean.among_well_formed,
        "gain_format": mean and mean.format,
        "share_among_well_formed": mean.among_well_formed / mean.points if mean and mean.points else None,
        "controls": {TITLES[name]: fmean(g.points for g in last[name]) if whole[name] else None for name in controls},
        "control_spreads": {
            TITLES[name]: spread([g.points for g in last[name]]) if whole[name] else None for name in controls
        },
        "control_seeds": {TITLES[name]: [run.seed for run in runs[name]] for name in controls},
        "wall_minutes": max((run.wall_minutes for run in every), default=None),
        "peak_rss_gib": max((run.peak_rss_gib for run in every), default=None),
        "peak_is_known": all(knows_peak(run.manifest) for run in every),
        "seeds": [run.seed for run in runs[MAIN]],
        "overall": {TITLES[name]: [[score(s) for s in run.scores] for run in group] for name, group in runs.items()},
        "decodings": {TITLES[name]: [_decodings(run) for run in group] for name, group in runs.items()},
        "colder_base": list(_colder_bases()),
        "math500": _mean_ends(main, BESIDE),
        "transfer": _transfer(main),
        "truncated": _truncated(main),
        "rounds": average_iterations(main) if main else None,
        "table": average_table(main) if main else None,
        "label_accuracy_second_opinion": _label_accuracy(main),
        "worked_examples": _worked_examples(main[0].config) if main else None,
        "prompts": said(main[0].config) if main else None,
        "base_sha256": sorted({run.base for run in every}),
        "cpus": sorted({cpu for run in every for cpu in _cpus(run)}),
        "commits": sorted({attempt["commit"] for run in every for attempt in run.attempts}),
    }


def _wanted(name: str, seeds: Sequence[int]) -> list[int]:
    return [seed for seed in STUDY.seeds[name] if seed in seeds]


def _ends(run: Kept, benchmark: str) -> tuple[Scores, Scores]:
    return only(run.scores[0], benchmark), only(run.scores[-1], benchmark)


def _gain(run: Kept) -> Gain:
    return gain(*_ends(run, HEADLINE))


def _decodings(run: Kept) -> Json:
    """What the headline is the mean of, in percent: of the base and each iteration."""
    rows = [only(scores, HEADLINE).table()[HEADLINE] for scores in run.scores]
    return {column: [row[column] for row in rows] for column in run.scores[0].headline}


def _cpus(run: Kept) -> list[str]:
    return sorted({attempt.get("cpu", "not recorded") for attempt in run.attempts})


def _colder_bases() -> Iterator[Json]:
    """The base at the temperatures at which it was asked beside the protocol's, in percent.

    one_pass_sd: the standard deviation of the share of right ones among one answer to each item.
    """
    for temperature in temperatures(STUDY):
        if (scores := colder_base(STUDY, temperature)) is not None:
            row, [items] = scores.table()[HEADLINE], scores.benchmarks
            shares = [outcome.sampled for outcome in items.outcomes]
            variance = sum(p * (1 - p) for p in shares) * scores.k / (scores.k - 1)
            yield {
                "temperature": temperature,
                "overall": scores.overall,
                **{column: row[column] for column in scores.headline},
                "k": scores.k,
                "one_pass_sd": 100 * math.sqrt(variance) / len(shares),
            }


def _mean_ends(runs: Sequence[Kept], benchmark: str) -> Json | None:
    """Base and end in percent, and the gain with its interval, as for the figure that counts."""
    pairs = [_ends(run, benchmark) for run in runs]
    return _of_pairs(pairs) if pairs else None


def _transfer(runs: Sequence[Kept]) -> Json | None:
    asked = [run for run in runs if run.transfer]
    if not asked or len(asked) < len(runs):
        return None
    return _of_pairs([(Scores.from_json(run.transfer[0]), Scores.from_json(run.transfer[-1])) for run in asked])


def _of_pairs(pairs: Sequence[tuple[Scores, Scores]]) -> Json:
    change = mean_gain(pairs)
    return {
        "base": fmean(before.overall for before, _ in pairs),
        "end": fmean(after.overall for _, after in pairs),
        "gain": change.points,
        "interval": (change.low, change.high),
    }


def _truncated(runs: Sequence[Kept]) -> list[Json] | None:
    """By iteration and benchmark the share of each decoding's responses that ran into the limit, mean over seeds."""
    if not runs:
        return None
    return [
        {
            name: {decoding: fmean(run.truncated[i][name][decoding] for run in runs) for decoding in shares}
            for name, shares in runs[0].truncated[i].items()
        }
        for i in range(len(runs[0].truncated))
    ]


def _label_accuracy(runs: Sequence[Kept]) -> list[float] | None:
    """By iteration, mean over seeds; None unless a larger model was asked about every run."""
    found = [run.label_accuracy for run in runs]
    return [fmean(values) for values in zip(*found, strict=True)] if found and all(found) else None


def _worked_examples(config: DictConfig) -> int | None:
    prompts = prompts_of(config)
    return None if prompts is None else len(worked_examples(prompts))


# ------------------------------------------------------------------------------------------------------------- in words


def row(found: Json) -> str:
    """Markdown for the README: a line for each arm, with the seeds of it that are kept; empty without R-Zero."""
    if found["mean_gain"] is None:
        return ""
    seeds = {TITLES[MAIN]: found["seeds"], **found["control_seeds"]}
    rows = [_row(name, runs, seeds[name]) for name, runs in found["overall"].items() if runs]
    base = fmean(run[0] for run in found["overall"][TITLES[MAIN]])
    for colder in found["colder_base"]:
        if colder["temperature"] == NEARLY_GREEDY:
            continue  # the mean of that and the greedy score, which is the base's, would say nothing
        rows.append(_row(_colder_title(colder), [(base, colder["overall"])], []))
    last = len(found["overall"][TITLES[MAIN]][0]) - 1
    return markdown_table(["Qwen2.5-Coder-0.5B, GSM8K, %", "seeds", "base", f"iteration {last}", "gain, points"], rows)


def _row(name: str, runs: Sequence[Sequence[float]], seeds: Sequence[int]) -> list[str]:
    """Means over runs, each the scores by iteration, and the gain with its standard deviation."""
    gains = [run[-1] - run[0] for run in runs]
    deviation = f" ± {spread(gains):.1f}" if len(gains) > 1 else ""
    scores = [f"{fmean(run[end] for run in runs):.1f}" for end in (0, -1)]
    return [name, ", ".join(map(str, seeds)), *scores, f"{fmean(gains):+.1f}{deviation}"]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _colder_title(colder: Json) -> str:
    return f"no training, drawn at T = {colder['temperature']:g}"


def write(runs: Arms, found: Json) -> None:
    """Write the figure and the blocks of README.md and docs/small_language_models.md; empty ones while nothing is kept.

    Raises ValueError when some runs of R-Zero are there and others are not: a table of fewer seeds is not published.
    """
    if runs[MAIN] and found["mean_gain"] is None:
        raise ValueError("R-Zero is not kept with all of these seeds; name those that are")
    if table := row(found):
        save(lambda: picture(runs), FIGURE)
        link = f"![GSM8K by iteration]({FIGURE.relative_to(PROJECT)})"
        table = f"{link}\n\n{table}"
    readme.update("half_billion", table)
    readme.update("small_language_models", page(runs, found))


def picture(runs: Arms) -> Figure:
    """The figure that counts by iteration: the mean over seeds of each arm that is kept, with all its seeds between."""
    values = {TITLES[name]: [[score(s) for s in run.scores] for run in group] for name, group in runs.items() if group}
    lines = [_line(label, seeds) for label, seeds in values.items()]
    return by_iteration(lines, ylabel="GSM8K, mean of greedy and mean@4 (%)")


def _line(label: str, seeds: Sequence[Sequence[float]]) -> Line:
    return Line(
        label=label,
        points=[
            Point(iteration=i, value=fmean(values), low=min(values), high=max(values))
            for i, values in enumerate(zip(*seeds, strict=True))
        ],
    )


def page(runs: Arms, found: Json) -> str:
    """Markdown of everything: scores by seed, what stands beside them, the iterations, examples of questions."""
    if found["mean_gain"] is None:
        return ""
    words = [_lines(text) for text in (_headline(found), found["prompts"]) if text]
    scores = _scores(found), _lines(_scatter(found)), _beside(found), _iterations(found)
    return "\n\n".join(filter(None, [*words, *scores, _costs(runs), _examples(runs)]))


def _lines(sentences: str) -> str:
    return fill(sentences, width=120, break_long_words=False, break_on_hyphens=False)


def _headline(found: Json) -> str:
    low, high = found["interval"]
    return (
        f"R-Zero moves the score by **{found['mean_gain']:+.2f}** points ({_seeds(found['seeds'])}; "
        f"95 % interval over items {low:+.2f} to {high:+.2f}; smallest {found['min_gain']:+.2f}). "
        f"{found['gain_among_well_formed']:+.2f} of it are right answers among boxed, finished ones, "
        f"{found['gain_format']:+.2f} are format."
    )


def _scatter(found: Json) -> str:
    """What a greedy score is worth; empty where the base was not asked nearly greedily."""
    for colder in found["colder_base"]:
        if colder["temperature"] == NEARLY_GREEDY:
            return (
                f"A greedy score is one drawing of many that hardly differ: at T = {NEARLY_GREEDY:g} the base has "
                f"{colder['mean@k']:.1f} % on the mean of {colder['k']}, not {colder['greedy']:.1f}, and one answer to "
                f"each item scatters about that with a standard deviation of {colder['one_pass_sd']:.1f} points."
            )
    return ""


def _scores(found: Json) -> str:
    rounds = len(found["overall"][TITLES[MAIN]][0])
    seeds = {TITLES[MAIN]: found["seeds"], **found["control_seeds"]}
    columns = list(found["decodings"][TITLES[MAIN]][0])
    rows = [
        [name, str(seed), *(f"{value:.1f}" for value in values), f"{values[-1] - values[0]:+.1f}"]
        + [f"{part[column][0]:.1f}, {part[column][-1]:.1f}" for column in columns]
        for name, runs in found["overall"].items()
        for seed, values, part in zip(seeds[name], runs, found["decodings"][name], strict=True)
    ]
    for colder in found["colder_base"]:
        alone = [f"{colder[column]:.1f}" for column in columns]
        rows.append([_colder_title(colder), "", f"{colder['overall']:.1f}", *[""] * rounds, *alone])
    header = ["GSM8K, %", "seed", "base", *(f"iteration {i}" for i in range(1, rounds)), "gain"]
    return markdown_table([*header, *(f"{column}: base, end" for column in columns)], rows)


def _beside(found: Json) -> str:
    rows = []
    for title, key in (("MATH-500", "math500"), ("reasoning-gym, six families", "transfer")):
        if part := found[key]:
            low, high = part["interval"]
            cells = f"{part['base']:.1f}", f"{part['end']:.1f}", f"{part['gain']:+.2f} [{low:+.2f}, {high:+.2f}]"
            rows.append([title, *cells])
    for name, shares in found["truncated"][0].items():
        last = found["truncated"][-1][name]
        shown = [" / ".join(f"{100 * value:.1f}" for value in part.values()) for part in (shares, last)]
        rows.append([f"{name}, cut at the limit (greedy / sampled)", *shown, ""])
    return markdown_table(["R-Zero, mean over seeds, %", "base", "end", "gain [95 % interval]"], rows)


def _iterations(found: Json) -> str:
    rounds = found["rounds"][1:]
    wanted = {
        "well-formed, share of the posed": "posed/well_formed",
        "distinct, share of the well-formed": "posed/distinct",
        "agreement in the band, share of the posed": "posed/in_band",
        "questions kept": "curriculum/kept",
        "Solver reward, first step": "solver/first_reward",
        "Solver reward, last step": "solver/reward",
        "Solver response length, tokens": "solver/length",
    }
    rows = [
        [label, *(f"{entry[key]:.2f}" if key in entry else "-" for entry in rounds)] for label, key in wanted.items()
    ]
    if labels := found["label_accuracy_second_opinion"]:
        rows.append(["pseudo-labels that are a larger model's answer, share", *(f"{value:.2f}" for value in labels)])
    return markdown_table(["R-Zero, mean over seeds", *(f"iteration {i}" for i in range(1, len(rounds) + 1))], rows)


def _costs(runs: Arms) -> str:
    """Minutes by the clock, whatever ran beside a run, and the memory of all its processes."""
    rows = [
        [
            TITLES[name],
            str(run.seed),
            said_minutes(run.manifest),
            said_peak(run.manifest),
            str(run.manifest["threads"]),
            "; ".join(_cpus(run)),
        ]
        for name, group in runs.items()
        for run in group
    ]
    return markdown_table(["what a run took", "seed", "minutes", "peak memory, GiB", "threads", "CPU"], rows)


def _examples(runs: Arms) -> str:
    """Questions of one run with their votes, as they were posed."""
    first = runs[MAIN][0]
    rows = [
        [
            number,
            markdown_cell(entry["question"] or "(none)"),
            markdown_cell(", ".join(f"{answer} x{count}" for answer, count in entry["votes"]) or "-"),
            entry["outcome"],
        ]
        for number, entries in first.questions.items()
        for entry in entries
    ]
    header = [f"iteration, seed {first.seed}", "question", "votes", "outcome"]
    return markdown_table(header, rows, numeric=False)
