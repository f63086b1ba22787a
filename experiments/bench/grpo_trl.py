"""TRL's side of the GRPO benchmark: its GRPOTrainer with transformers' own generation, as it comes."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from experiments.bench.grpo import MODEL
from experiments.bench.grpo_worker import SYSTEM, Clock, answer, questions, rewards, wait_for_step, work


class _OnCommand(TrainerCallback):
    """Waits before every step until the parent asks for it, and answers with its times."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rollout, self.tokens = 0.0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait_for_step()
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = self.clock.seconds()
        answer({"step": step, "update": step - self.rollout, "tokens": self.tokens})


def main() -> None:
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    settings = work()
    rows = settings["prompts"] * settings["samples"]
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="rzero-trl-"), use_cpu=True, bf16=False, report_to="none",
        save_strategy="no", logging_steps=1000, disable_tqdm=True, dataloader_num_workers=0, max_steps=1000,
        per_device_train_batch_size=rows, gradient_accumulation_steps=1, num_generations=settings["samples"],
        num_iterations=1, max_completion_length=settings["max_tokens"], temperature=1.0, top_p=1.0, top_k=0,
        learning_rate=settings["learning_rate"], lr_scheduler_type="constant", max_grad_norm=1.0,
        beta=settings["kl_coefficient"], epsilon=settings["clip"], loss_type="grpo", gradient_checkpointing=False,
        shuffle_dataset=False,
    )  # fmt: skip
    callback = _OnCommand()
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(MODEL, padding_side="left"),
        args=config,
        train_dataset=Dataset.from_list(
            [
                {"prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]}
                for text in questions(settings["prompts"])
            ]
        ),
        reward_funcs=lambda completions, **_: rewards([completion[0]["content"] for completion in completions]),
        callbacks=[callback],
    )
    _watch_rollout(trainer, callback)
    trainer.train()


def _watch_rollout(trainer: Any, callback: _OnCommand) -> None:
    """Leaves CPU seconds of rollout and reward, and the tokens drawn, with the callback.

    The reference's pass, which TRL makes before the reward, belongs to the update, as on our side.
    """
    score, logprobs = trainer._generate_and_score_completions, trainer._get_per_token_logps_and_entropies
    passes: list[float] = []

    def watched_logprobs(*args: Any, **kwargs: Any) -> Any:
        clock = Clock()
        values = logprobs(*args, **kwargs)
        passes.append(clock.seconds())
        return values

    def watched(inputs: Any) -> Any:
        clock = Clock()
        passes.clear()
        batch = score(inputs)
        callback.rollout = clock.seconds() - sum(passes)
        callback.tokens = int(batch["completion_mask"].sum())
        return batch

    trainer._generate_and_score_completions = watched
    trainer._get_per_token_logps_and_entropies = watched_logprobs


if __name__ == "__main__":
    main()
