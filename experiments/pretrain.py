"""Pre-train a micro base model on the text of the micro world.

    python -m experiments.pretrain                      # the committed model, conf/pretrain.yaml
    python -m experiments.pretrain model_size=small     # another size of conf/model_size/
    python -m experiments.pretrain name=try minutes=2   # a quick look

Writes an ordinary Hugging Face directory (Qwen3 architecture, safetensors, tokenizer with chat template, model card).
On one machine the result is a pure function of the configuration.

Exit codes: 0 written; 1 stopped by the user; 2 a wrong value, path or place.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT
from experiments.command_line import DONE, check, exit_code, hydra_raises, say, without_config_dir
from experiments.compose import importable, own_folder
from experiments.paths import spelled
from experiments.provenance import commit
from experiments.sweeping.places import is_sweep
from rzero.escaping import checked_name
from rzero.types import Json


def write_card(output: Path, cfg: DictConfig, *, parameters: int, steps: int, seconds: float) -> None:
    """The model card: what was read, how long, and the checksum of the weights."""
    digest = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
    facts: Json = {
        "command": " ".join(["python -m experiments.pretrain", *HydraConfig.get().overrides.task]),
        "parameters": parameters,
        "steps": steps,
        "seed": cfg.seed,
        "minutes_on_one_core": round(seconds / 60, 1),
        "machine": platform.processor() or platform.machine(),
        "torch": importlib.metadata.version("torch"),
        "commit": commit(),
        "sha256": digest,
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    corpus = OmegaConf.to_yaml(cfg.corpus)
    (output / "README.md").write_text(
        f"# {cfg.name}: a base model of the micro world\n\n"
        "A Qwen3-architecture causal language model that has read nothing but generated text about the six families\n"
        "of `evaluation/micro/world.py`, in the chat form of both roles. It is a *base* model, imperfect on purpose:\n"
        "half of what it read answers without working, worked steps contain slips, some answers and some posed\n"
        "questions break the format. Questions whose hash falls into a benchmark split were never written. It is of\n"
        "no use for anything else.\n\n"
        f"| fact | value |\n| --- | --- |\n{rows}\n\n## What it read\n\n```yaml\n{corpus}```\n"
    )


WHOLE_NUMBERS = {
    "seed": 0, "threads": 1, "steps": 1, "tokens_per_step": 1, "warmup_steps": 1, "log_every": 1,
}  # fmt: skip
"""Keys that must be whole numbers, and their smallest value."""


@hydra.main(version_base="1.3", config_path=str(PROJECT / "conf"), config_name="pretrain")
def main(cfg: DictConfig) -> None:
    own_folder()
    check(cfg, WHOLE_NUMBERS)
    checked_name(str(cfg.name))
    if Path(cfg.output).is_file():
        raise NotADirectoryError(f"output={cfg.output} is a file; give a directory")
    from experiments.pretraining import pretrain
    from experiments.terminal import quiet_libraries

    quiet_libraries()
    started, output = time.monotonic(), Path(cfg.output)
    made = pretrain(cfg, output)
    write_card(output, cfg, parameters=made.parameters, steps=made.steps, seconds=time.monotonic() - started)
    say(f"wrote {output}: {json.dumps({'steps': made.steps, 'parameters': made.parameters})}")


def command() -> int:
    """`python -m experiments.pretrain`: exit codes and messages as all commands have them."""
    own, given = without_config_dir(sys.argv[1:])

    def work() -> int:
        chosen = spelled(given, several=is_sweep(given))
        sys.argv[1:] = [*([f"--config-dir={importable(own)}"] if own else []), *chosen]
        with hydra_raises():
            main()
        return DONE

    stopped = "nothing was written: the same command starts again, with minutes=2 a short one"
    return exit_code(work, stopped=stopped)


if __name__ == "__main__":
    sys.exit(command())
