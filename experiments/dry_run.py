"""Run one iteration of an experiment in seconds on a CPU: all but its weights, its device and its benchmarks.

    python -m experiments.dry_run experiment=paper
    python -m experiments.dry_run experiment=official policy=octothinker_8b solver.settings.samples_per_prompt=3

The experiment is composed and built as `experiments.run` would do it and made small by conf/dry_run.yaml. The model is
a random one of the same architecture; it really draws, is scored and is trained. Such a model writes no question block,
so what it wrote is *read* as a reply from a script: parsing, votes, rewards and band then have something to work on.

Exit codes: 0 the iteration ended; 2 something is wrong with the experiment.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.command_line import DONE, add_overrides, check, command_parser, exit_code, expand_policy
from experiments.compose import compose
from experiments.terminal import quiet_libraries
from rzero.interfaces import Progress, RolloutEngine
from rzero.runs.directory import RunDirectory
from rzero.types import Group, Json, Prompt, Sampling

if TYPE_CHECKING:
    from rzero.policy import Policy
    from rzero.selfplay import SelfPlay

REPLACED = ("engine", "trainer", "benchmarks")
"""Groups of conf/dry_run.yaml that take the place of the experiment's; what else is in there changes single values."""

Script = Callable[[Prompt, int, int], str]
"""The reply to a prompt at this place of a call, for the sample of this number."""


class Dictated:
    """An engine whose tokens and log-probs are its model's own, and whose texts come from a script."""

    def __init__(self, engine: RolloutEngine, *, script: Script) -> None:
        self.engine, self.script = engine, script

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[Group]:
        groups = self.engine.generate(prompts, sampling, progress=progress)
        return [
            replace(
                group,
                completions=tuple(
                    replace(completion, text=self.script(group.prompt, place, sample))
                    for sample, completion in enumerate(group.completions)
                ),
            )
            for place, group in enumerate(groups)
        ]

    def sync(self, policy: Policy) -> None:
        self.engine.sync(policy)

    def close(self) -> None:
        self.engine.close()


def replies(request: Prompt) -> Script:
    """Sums as questions for the Challenger's `request`; for any other prompt 7 and other numbers in turn, so that votes
    are split in half and rewards differ."""

    def script(prompt: Prompt, place: int, sample: int) -> str:
        if prompt == request:
            return f"<question>\nWhat is {3 + place} + {4 + sample}?\n</question>\n\n\\boxed{{{7 + place + sample}}}"
        return f"\\boxed{{{7 if sample % 2 == 0 else 100 + sample}}}"

    return script


def small(overrides: Sequence[str], directory: Path, *, config_dir: Path | None = None) -> DictConfig:
    """Return the experiment with a random model in `directory` for its weights and the sizes of conf/dry_run.yaml."""
    cfg = compose(*expand_policy(overrides, config_dir=config_dir), config_dir=config_dir, run_directory=directory)
    check(cfg)
    shrunk = compose(config="dry_run", run_directory=directory)
    architecture = cfg.policy.get("architecture")
    if architecture is None:
        raise ValueError(f"policy {cfg.policy.path_or_id} has no `architecture` to take the shape from (conf/policy)")
    random_policy({"model_type": architecture.model_type, **shrunk.model}, directory / "model")
    with open_dict(cfg), open_dict(shrunk):
        cfg.policy.pop("package", None)
        cfg.policy.path_or_id = str(directory / "model")
        del shrunk["model"]
        for group in REPLACED:
            cfg[group] = shrunk.pop(group)
        cfg.merge_with(shrunk)
    return cfg


def random_policy(config: Json, directory: Path) -> None:
    """Saves a model of this Hugging Face configuration with random weights; its tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from rzero.policy import Policy

    end = "<|endoftext|>"  # which some families add where it is missing
    vocabulary = {token: index for index, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), end])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)
    ends = {"bos_token_id": None, "eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = AutoConfig.for_model(**config, **ends, vocab_size=len(fast))
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    Policy(model=model, tokenizer=fast).save(directory)


def dry_run(overrides: Sequence[str], directory: Path, *, config_dir: Path | None = None) -> SelfPlay:
    """Carry out one iteration in `directory`, from configuration to evaluation; return the run that has ended."""
    cfg = small(overrides, directory, config_dir=config_dir)
    from experiments import composition

    selfplay = composition.build(cfg, directory)
    script = replies(selfplay.prompts.challenger())
    selfplay.make_engine = lambda: Dictated(instantiate(cfg.engine), script=script)
    RunDirectory(directory).config.write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")
    try:
        selfplay.run()
    finally:
        selfplay.close()
    return selfplay


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.dry_run", __doc__)
    add_overrides(parser)
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        quiet_libraries()
        with tempfile.TemporaryDirectory(prefix="rzero_dry_run_") as folder:
            selfplay = dry_run(options.overrides, Path(folder), config_dir=options.config_dir)
            for stage, commit in selfplay.stages.ledger.stages.items():
                print(f"{stage}: {commit.result['summary']}")
        print("the iteration ended")
        return DONE

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
