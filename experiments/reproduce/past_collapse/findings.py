"""What the kept runs of the study say: the winner against R-Zero and the ceiling, and what the alarm is worth.

    python -m experiments.results past_collapse --json

Nothing is started. A figure whose runs are missing is None; one from fewer seeds than planned says from how many.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table

from evaluation.seeds import Estimate, over_seeds
from experiments.command_line import DONE
from experiments.compose import compose
from experiments.reproduce.past_collapse.arms import CONFIRM, MEDIUM, MICRO, PARTS, SCREEN, TWENTY, WINNER, Part
from experiments.reproduce.past_collapse.judging import Verdict, judge
from experiments.reproduce.past_collapse.keeping import Kept
from experiments.reproduce.past_collapse.watched import FAMILIES, LABELS, Runs, kept, watched
from experiments.terminal import print_table
from rzero.types import Json


def tell(*, as_json: bool) -> int:
    """Prints the figures, as one JSON object or as a table; returns the exit code."""
    found = findings({part.name: kept(part) for part in PARTS.values()})
    if as_json:
        print(json.dumps(found))
        return DONE
    table = Table(title="past the collapse, from kept runs")
    for column in ("figure", "value"):
        table.add_column(column)
    for name, value in found.items():
        if name != "arms":
            table.add_row(name, _shown(value))
    print_table(Console(), table)
    return DONE


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(entry)}" for key, entry in value.items())
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def findings(runs: Mapping[str, Runs]) -> Json:
    """Returns the figures from the kept runs of each part: the confirmation's, the alarm's, and curves of all arms."""
    confirmed = runs[CONFIRM.name]
    winner = confirmed.get(WINNER, {})
    gain, ceiling = (_lead(winner, confirmed.get(other, {}), round_=CONFIRM.rounds) for other in ("rzero", "labelled"))
    alarm = verdict({name: part for name, part in runs.items() if name != SCREEN.name})
    twenty = [run.overall[20] - run.overall[10] for run in runs[TWENTY.name].get(WINNER, {}).values()]
    sizes = {part.name: _size_lead(runs, part) for part in (MEDIUM, MICRO)}
    return {
        "winner": WINNER,
        "seeds": sorted(winner),
        "decline_low": _low(decline(list(winner.values()))),
        "below_ceiling": None if ceiling is None else -ceiling.mean,
        "paired_gain": _mean(gain),
        "paired_gain_low": _low(gain),
        "label_accuracy": _last(winner, LABELS),
        "effective_families": _last(winner, FAMILIES),
        "alarm_auc": alarm.auc,
        "twenty_rounds": fmean(twenty) if twenty else None,
        "late_gain": _mean(_over([run.overall[10] - run.overall[3] for run in winner.values()])),
        "hard_gain": _mean(_over([run.hard[10] - run.hard[3] for run in winner.values()])),
        "sizes": {name: _mean(lead) for name, lead in sizes.items()},
        "counts": {
            "winner": len(winner),
            "twenty": len(twenty),
            **{
                name: 0 if estimate is None else estimate.seeds
                for name, estimate in {"paired": gain, "ceiling": ceiling, **sizes}.items()
            },
        },
        "alarm": asdict(alarm),
        "arms": {
            name: {treatment: curves(list(group.values())) for treatment, group in part.items()}
            for name, part in runs.items()
        },
    }


def verdict(runs: Mapping[str, Runs]) -> Verdict:
    """Returns what today's alarm is worth on these runs."""
    monitor = instantiate(compose().collapse)
    rounds = watched(runs)
    lows = {name: monitor.limits[name].low for name in monitor.alarm.forms}
    return judge(rounds, [monitor.alarm(round_.metrics) for round_ in rounds], lows=lows)


def decline(runs: Sequence[Kept]) -> Estimate | None:
    """Returns the last score minus that of the earlier round with the highest mean, paired by seed."""
    if not runs:
        return None
    means = [fmean(run.overall[number] for run in runs) for number in range(len(runs[0].overall))]
    best = max(range(len(means) - 1), key=means.__getitem__)
    return over_seeds([run.overall[-1] - run.overall[best] for run in runs])


def curves(runs: Sequence[Kept]) -> Json:
    """Returns means over seeds by round: score (from the base model on), label accuracy and families (from round 1)."""
    return {
        "seeds": [run.seed for run in runs],
        "overall": [round(fmean(values), 3) for values in zip(*(run.overall for run in runs), strict=True)],
        "hard": {number: round(fmean(run.hard[number] for run in runs), 3) for number in runs[0].hard},
        "label_accuracy": _by_round(runs, LABELS),
        "families": _by_round(runs, FAMILIES),
    }


def _by_round(runs: Sequence[Kept], metric: str) -> list[float | None]:
    values = ([run.rounds[number][metric] for run in runs if metric in run.rounds[number]] for number in _rounds(runs))
    return [round(fmean(found), 4) if found else None for found in values]


def _rounds(runs: Sequence[Kept]) -> range:
    return range(1, len(runs[0].rounds))


def _lead(mine: Mapping[int, Kept], theirs: Mapping[int, Kept], *, round_: int) -> Estimate | None:
    """The scores of one arm minus another's after a round, paired by the seeds that both have."""
    return _over([mine[seed].overall[round_] - theirs[seed].overall[round_] for seed in sorted(mine.keys() & theirs)])


def _size_lead(runs: Mapping[str, Runs], part: Part) -> Estimate | None:
    group = runs[part.name]
    return _lead(group.get(WINNER, {}), group.get("rzero", {}), round_=part.rounds)


def _over(values: Sequence[float]) -> Estimate | None:
    return over_seeds(values) if values else None


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean


def _low(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.low


def _last(runs: Mapping[int, Kept], metric: str) -> float | None:
    values = [run.rounds[-1][metric] for run in runs.values() if metric in run.rounds[-1]]
    return fmean(values) if values else None
