"""The generated blocks of README.md and docs/: they come from the committed figures, so they cannot drift from them."""

from __future__ import annotations

import re
from statistics import fmean
from textwrap import fill

from evaluation.metrics import spread
from experiments import PROJECT
from experiments.reporting.markdown import markdown_table
from rzero.durable import write_atomically
from rzero.types import Json

RESULTS = PROJECT / "docs" / "results.md"
README = PROJECT / "README.md"
PAST_COLLAPSE = PROJECT / "docs" / "past_collapse.md"
PAGES = {
    "summary": README,
    "half_billion": README,
    "micro": RESULTS,
    "claims": RESULTS,
    "small_language_models": PROJECT / "docs" / "small_language_models.md",
    **{f"past_collapse_{part}": PAST_COLLAPSE for part in ("goals", "screen", "confirm", "medium", "micro", "twenty")},
}
"""Which page holds which block, between `<!-- results:NAME (COMMAND) -->` and `<!-- end of results:NAME -->`."""


def summary(figures: Json) -> str:
    """Markdown of `experiments.results`: one line for each arm, mean and standard deviation over seeds."""
    last = len(figures["rounds"]) - 1
    rows = []
    for arm, runs in figures["overall"].items():
        base, end = fmean(run[0] for run in runs), fmean(run[-1] for run in runs)
        gains = [run[-1] - run[0] for run in runs]
        rows.append([arm, f"{base:.1f}", f"{end:.1f}", f"{fmean(gains):+.1f} ± {spread(gains):.1f}"])
    return markdown_table(["overall, %", "base", f"iteration {last}", "gain, points"], rows)


def block(name: str, figures: Json) -> str:
    """Markdown of `experiments.results`: everything about an experiment and its controls."""
    command = (
        f"Command: `python -m experiments.results {name} --seeds {' '.join(map(str, figures['seeds']))}` (`--fresh` "
        f"runs it all again). Commit of the runs: {', '.join(figures['commits']) or 'unknown'}."
    )
    blocks = [_lines(_headline(figures)), _overall(figures), _averages(figures), _rounds(figures), _lines(command)]
    return "\n\n".join(blocks)


def update(name: str, text: str) -> None:
    """Replace a block on its page. Raises ValueError when its markers are missing."""
    head, _, tail = _parts(name)
    write_atomically(PAGES[name], f"{head}\n{text}\n{tail}".encode())


def current(name: str) -> str:
    """A block as it stands on its page."""
    return _parts(name)[1].strip("\n")


def _parts(name: str) -> tuple[str, str, str]:
    """The page up to a block, the block, and the rest."""
    page, begin, end = PAGES[name], rf"<!-- results:{name} \([^)]*\) -->", f"<!-- end of results:{name} -->"
    found = re.fullmatch(rf"(.*?{begin})(.*?)({end}.*)", page.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise ValueError(f"{page} must hold the markers {begin} and {end}")
    head, text, tail = found.groups()
    return head, text, tail


def _lines(sentences: str) -> str:
    return fill(sentences, width=120, break_long_words=False, break_on_hyphens=False)


def _headline(figures: Json) -> str:
    intervals = ", ".join(f"[{low:+.1f}, {high:+.1f}]" for low, high in figures["intervals"])
    return (
        f"After {len(figures['rounds']) - 1} iterations the Overall AVG is **{figures['mean_gain']:+.2f} ± "
        f"{figures['spread_gain']:.2f}** points above the base (mean and standard deviation over seeds "
        f"{', '.join(map(str, figures['seeds']))}; smallest {figures['min_gain']:+.2f}; 95 % bootstrap interval over "
        f"items for each seed: {intervals}). {figures['gain_among_well_formed']:+.2f} of it are right answers among "
        f"well-formed ones, {figures['gain_format']:+.2f} are format. A run took at most "
        f"{figures['wall_minutes']:.1f} minutes and {figures['peak_rss_gib']:.2f} GiB on one core of a shared two-core "
        "machine."
    )


def _overall(figures: Json) -> str:
    rounds = len(figures["rounds"])
    rows = []
    for arm, runs in figures["overall"].items():
        for seed, values in zip(figures["seeds"], runs, strict=True):
            rows.append([arm, str(seed), *(f"{v:.2f}" for v in values), f"{values[-1] - values[0]:+.2f}"])
    return markdown_table(["overall, %", "seed", "base", *(f"iteration {i}" for i in range(1, rounds)), "gain"], rows)


def _averages(figures: Json) -> str:
    tables = figures["table"]
    header = ["R-Zero, mean over seeds, %"]
    header += [f"{'base' if i == 0 else f'iteration {i}'}" for i in range(len(tables))]
    rows = []
    for row in tables[0]:
        for protocol in ("greedy", "mean@k"):
            rows.append([f"{row}, {protocol}", *(f"{table[row][protocol]:.1f}" for table in tables)])
    for protocol in ("maj@k", "pass@k", "sampled well-formed"):
        rows.append([f"Overall AVG, {protocol}", *(f"{table['Overall AVG'][protocol]:.1f}" for table in tables)])
    return markdown_table(header, rows)


def _rounds(figures: Json) -> str:
    rounds = figures["rounds"][1:]
    wanted = {
        "questions kept, share": ("curriculum/kept_fraction", ".2f"),
        "well-posed, share": ("audit/well_posed", ".2f"),
        "steps a posed question takes": ("audit/level", ".2f"),
        "steps a kept question takes": ("audit/level_kept", ".2f"),
        "pseudo-label accuracy (kept)": ("audit/label_accuracy_kept", ".2f"),
        "Challenger reward, last step": ("challenger/reward", ".2f"),
        "Solver reward, first step": ("solver/first_reward", ".2f"),
        "Solver reward, last step": ("solver/reward", ".2f"),
        "Challenger KL": ("challenger/kl", ".3f"),
        "Solver KL": ("solver/kl", ".3f"),
        "Solver response length, tokens": ("solver/length", ".1f"),
    }
    rows = [
        [label, *(f"{entry[key]:{form}}" if key in entry else "-" for entry in rounds)]
        for label, (key, form) in wanted.items()
    ]
    return markdown_table(["R-Zero, mean over seeds", *(f"iteration {i}" for i in range(1, len(rounds) + 1))], rows)
