"""TRL's side of the GRPO benchmark: its GRPOTrainer with transformers' own generation, as it comes."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from experiments.bench.grpo_worker import questions, rewards, wait_for_step
from experiments.bench.sides import Clock, answer
from rzero.types import Json

P = ParamSpec("P")
R = TypeVar("R")


class _OnCommand(TrainerCallback):
    """Waits before every step until the parent asks for it, and answers with its times."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rollout, self.tokens = 0.0, 0
        self.limit: Callable[[bool], None] = lambda short: None

    def on_step_begin(self, args: object, state: object, control: object, **_: object) -> None:
        self.limit(wait_for_step() == "warm up")
        self.clock.start()

    def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
        step = self.clock.seconds()
        answer({"step": step, "update": step - self.rollout, "tokens": self.tokens})


def take_steps(settings: Json) -> None:
    """Take a step whenever the parent asks for one. settings: `WORK` of `experiments.bench.grpo`."""
    from trl import GRPOConfig, GRPOTrainer

    if settings["trl_gib"]:
        resource.setrlimit(resource.RLIMIT_DATA, (settings["trl_gib"] * 2**30,) * 2)
    torch.set_num_threads(settings["threads"])
    micro_batch = settings["trl_rows"]
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="rzero-trl-"), use_cpu=True, bf16=False, report_to="none",
        save_strategy="no", logging_steps=1000, disable_tqdm=True, dataloader_num_workers=0, max_steps=1000,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=settings["prompts"] * settings["samples"] // micro_batch,
        num_generations=settings["samples"],
        num_iterations=1, max_completion_length=settings["max_tokens"], temperature=1.0, top_p=1.0, top_k=0,
        learning_rate=settings["learning_rate"], lr_scheduler_type="constant", max_grad_norm=1.0,
        beta=settings["kl_coefficient"], epsilon=settings["clip"], loss_type="grpo",
        gradient_checkpointing=settings["trl_checkpointing"], shuffle_dataset=False,
    )  # fmt: skip
    callback = _OnCommand()
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(settings["model"], padding_side="left"),
        args=config,
        train_dataset=Dataset.from_list(
            [
                {"prompt": [{"role": "system", "content": settings["system"]}, {"role": "user", "content": text}]}
                for text in questions(settings["prompts"], kind=settings["questions"])
            ]
        ),
        reward_funcs=lambda completions, **_: rewards([completion[0]["content"] for completion in completions]),
        callbacks=[callback],
        peft_config=_peft(settings["lora"]),
    )

    def limit(short: bool) -> None:
        tokens = settings["warm_up_tokens" if short else "max_tokens"]
        trainer.generation_config.max_new_tokens = trainer.generation_kwargs["max_new_tokens"] = tokens

    callback.limit = limit
    passes: list[float] = []
    trainer._get_per_token_logps_and_entropies = _timed(trainer._get_per_token_logps_and_entropies, passes)
    trainer._generate_and_score_completions = _watched(trainer._generate_and_score_completions, passes, callback)
    trainer.train()


def _peft(lora: Json | None) -> LoraConfig | None:
    """Our adapters in PEFT's words."""
    if lora is None:
        return None
    names = {"r": lora["rank"], "lora_alpha": lora["alpha"], "lora_dropout": lora["dropout"]}
    return LoraConfig(target_modules=list(lora["target_modules"]), task_type="CAUSAL_LM", **names)


def _timed(call: Callable[P, R], seconds: list[float]) -> Callable[P, R]:
    """Return a function that also leaves the CPU seconds of each call in `seconds`."""

    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        clock = Clock()
        result = call(*args, **kwargs)
        seconds.append(clock.seconds())
        return result

    return timed


def _watched(
    score: Callable[P, Mapping[str, torch.Tensor]], passes: list[float], callback: _OnCommand
) -> Callable[P, Mapping[str, torch.Tensor]]:
    """Return a rollout that leaves its CPU seconds, reward included, and the tokens drawn with the callback.

    The reference's pass, which TRL makes before the reward, belongs to the update, as on our side: see `passes`.
    """

    def watched(*args: P.args, **kwargs: P.kwargs) -> Mapping[str, torch.Tensor]:
        clock = Clock()
        passes.clear()
        batch = score(*args, **kwargs)
        callback.rollout = clock.seconds() - sum(passes)
        callback.tokens = int(batch["completion_mask"].sum())
        return batch

    return watched
