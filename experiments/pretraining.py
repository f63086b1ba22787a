"""The making of a micro base model: tokenizer, batches of text, training. `experiments.pretrain` is the command."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from rich import get_console
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from evaluation.micro.corpus import CorpusSpec, Document, documents
from experiments.terminal import waiting
from rzero.runs.progress import duration, line

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Words, tags and operators are whole pieces, digits stand alone; whatever else is written falls back to bytes.
PIECES = r"\\boxed\{|</?question>| ?[A-Za-z]+| [-+*=] |\d|[.,?!] ?|\s+|[^\sA-Za-z\d.,?!]+"


def chat_text(document: Document, prompts: DictConfig) -> str:
    """The document as the model sees it, control tokens included."""
    if document.role == "challenger":
        system, user = prompts.challenger_system, prompts.challenger_user
    else:
        system, user = prompts.solver_system, prompts.solver_user.replace("{question}", document.question)
    return f"{SYSTEM}{system}{END}{USER}{user}{END}{ASSISTANT}{document.response}{END}"


def build_tokenizer(texts: Iterator[str], *, vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the corpus: any text round-trips, frequent words are one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )


def batches(
    stream: Iterator[list[int]], *, tokens_per_step: int, pad: int, pool: int = 2048
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded batches of similar lengths: ids and labels [rows, longest], labels -100 on padding."""
    generator = torch.Generator().manual_seed(0)
    while True:
        rows = sorted(itertools.islice(stream, pool), key=len)
        groups: list[list[list[int]]] = [[]]
        for row in rows:
            if groups[-1] and len(row) * (len(groups[-1]) + 1) > tokens_per_step:
                groups.append([])
            groups[-1].append(row)
        for index in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[index]
            ids = torch.full((len(group), len(group[-1])), pad)
            labels = torch.full_like(ids, -100)
            for place, tokens in enumerate(group):
                ids[place, : len(tokens)] = labels[place, : len(tokens)] = torch.tensor(tokens)
            yield ids, labels


def optimizers(model: torch.nn.Module, cfg: DictConfig) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices (about 1.5 times fewer steps here), AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=cfg.muon_learning_rate, weight_decay=cfg.weight_decay, momentum=0.95),
        torch.optim.AdamW(others, lr=cfg.adam_learning_rate, betas=(0.9, 0.98), weight_decay=cfg.weight_decay),
    ]


def progress_share(step: int, started: float, cfg: DictConfig) -> float:
    return (time.monotonic() - started) / (60 * cfg.minutes) if cfg.minutes else step / cfg.steps


def train(model: Qwen3ForCausalLM, data: Iterator[tuple[torch.Tensor, torch.Tensor]], cfg: DictConfig) -> int:
    """Linear warm-up, then linear decay to zero. Returns the number of steps taken."""
    console, started, step, seen = get_console(), time.monotonic(), 0, 0
    steppers = optimizers(model, cfg)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in steppers]
    model.train()
    while (share := progress_share(step, started, cfg)) < 1:
        for optimizer, peak in zip(steppers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / cfg.warmup_steps) * (1 - share)
        ids, labels = next(data)
        logits = model(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steppers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + ids.numel()
        if step % cfg.log_every == 0:
            took, now = time.monotonic() - started, progress_share(step, started, cfg)
            left, rate = duration(took / now - took), f"{seen / took:,.0f} tokens/s"
            line(console, f"step {step:6d}  {100 * share:5.1f} %  loss {loss.item():.4f}  {rate}  {left} left")
    return step


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """What was saved: the number of weights, and of the steps that made them."""

    parameters: int
    steps: int


def pretrain(cfg: DictConfig, output: Path) -> Pretrained:
    """Make tokenizer and model, train them and save them into `output`."""
    torch.manual_seed(cfg.seed)
    torch.set_num_threads(cfg.threads)
    spec: CorpusSpec = hydra.utils.instantiate(cfg.corpus, _convert_="all")
    sample = itertools.islice(documents(spec, seed=cfg.seed), cfg.tokenizer.documents)
    with waiting(f"tokenizer, from {cfg.tokenizer.documents:,} documents"):
        tokenizer = build_tokenizer(
            (chat_text(document, cfg.prompts) for document in sample),
            vocabulary=cfg.tokenizer.vocabulary,
            context=cfg.model.max_position_embeddings,
        )
    config = Qwen3Config(
        **dict(cfg.model),
        vocab_size=cfg.tokenizer.vocabulary,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    line(get_console(), f"{parameters:,} parameters, vocabulary {len(tokenizer)}")
    stream = (
        tokenizer.backend_tokenizer.encode(chat_text(document, cfg.prompts)).ids
        for document in documents(spec, seed=cfg.seed + 1)
    )
    data = batches(stream, tokens_per_step=cfg.tokens_per_step, pad=tokenizer.pad_token_id)
    steps = train(model, data, cfg)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return Pretrained(parameters=parameters, steps=steps)
