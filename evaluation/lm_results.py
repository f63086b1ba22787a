"""lm-eval's own result files, so that its tools (tables, comparisons, uploads) work on an evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from lm_eval.loggers import EvaluationTracker
from lm_eval.utils import handle_non_serializable

from evaluation.protocol import Protocol
from evaluation.store import digest
from rzero.types import Json

_BY_TASK = ("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "samples")


def plain(results: Json) -> Json:
    """A result dictionary as plain JSON data."""
    data: Json = json.loads(json.dumps(results, default=handle_non_serializable))
    return data


def merged(parts: Sequence[Json]) -> Json:
    """The results of several tasks as lm-eval would have returned them from one run."""
    together: Json = {key: {} for key in _BY_TASK}
    for part in parts:
        for key in _BY_TASK:
            together[key].update(part.get(key, {}))
    return together


def write(results: Json, *, folder: Path, model: str, protocol: Protocol) -> None:
    """`<folder>/<model>/results_*.json` and `samples_<task>_*.jsonl`; once for equal results.

    Raises OSError when lm-eval could not write them (it only logs that).
    """
    stamp = digest(results)
    done = folder / model / f".{stamp}"
    if done.exists():
        return
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args(
        model_source="rollout engine",
        model_args={"pretrained": model},
        system_instruction=None,
        chat_template=None,
        fewshot_as_multiturn=False,
    )
    content = deepcopy(results)
    samples = content.pop("samples")
    content["config"] = {"model": model, "model_args": {"pretrained": model}, "protocol": asdict(protocol)}
    content["lm_eval_version"] = version("lm_eval")
    tracker.save_results_aggregated(content, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task, rows)
    written = folder / model
    if not list(written.glob("results_*.json")) or any(not list(written.glob(f"samples_{t}_*.jsonl")) for t in samples):
        raise OSError(f"lm-eval could not write its results into {written}; is the disk full?")
    done.touch()
