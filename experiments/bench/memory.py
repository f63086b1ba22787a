"""Peak memory of the log-probabilities of 4,096 completion tokens, forward and backward, ours against the plain way.

Each measurement runs in a process of its own, because the peak resident size of a process never falls. The plain way is
the smallest usual one: full float32 logits, `log_softmax`, gather, and autograd's backward.

Shapes: S completion tokens, E model width, V vocabulary.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from rzero.modules.logprobs import LogitShape, head_logprobs
from rzero.types import Json

VOCABULARIES = {"qwen3": 151_936, "gemma3": 262_144}
TOKENS, HIDDEN, CHUNK_TOKENS, TEMPERATURE = 4_096, 64, 128, 0.9


def run() -> Json:
    """Keys: `memory_ratio` (the smallest over vocabularies), `max_difference` (values and gradients, the largest), and
    per vocabulary the peak MiB above the inputs and the seconds of either way."""
    measured: Json = {}
    for name, vocabulary in VOCABULARIES.items():
        ours, plain = (_in_child(way, vocabulary) for way in (_ours, _plain))
        measured[name] = {
            "vocabulary": vocabulary,
            "memory_ratio": plain["peak_mib"] / ours["peak_mib"],
            "ours_mib": ours["peak_mib"],
            "plain_mib": plain["peak_mib"],
            "ours_s": ours["seconds"],
            "plain_s": plain["seconds"],
            "max_difference": max(
                float((ours[key] - plain[key]).abs().max()) for key in ("logp", "hidden_grad", "weight_grad")
            ),
        }
    return {
        "memory_ratio": min(entry["memory_ratio"] for entry in measured.values()),
        "max_difference": max(entry["max_difference"] for entry in measured.values()),
        "tokens": TOKENS,
        "chunk_tokens": CHUNK_TOKENS,
        **measured,
    }


def _ours(hidden_SE: Tensor, weight_VE: Tensor, targets_S: Tensor) -> Tensor:
    logp_S, _ = head_logprobs(
        hidden_SE,
        weight_VE=weight_VE,
        targets_S=targets_S,
        shape=LogitShape(temperature=TEMPERATURE),
        chunk_tokens=CHUNK_TOKENS,
        entropy=False,
    )
    return logp_S


def _plain(hidden_SE: Tensor, weight_VE: Tensor, targets_S: Tensor) -> Tensor:
    logits_SV = (hidden_SE @ weight_VE.t()) / TEMPERATURE
    return logits_SV.log_softmax(dim=1).gather(1, targets_S[:, None]).squeeze(1)


def _in_child(way: Callable[[Tensor, Tensor, Tensor], Tensor], vocabulary: int) -> Json:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(way, vocabulary, sender))
    child.start()
    sender.close()
    try:
        result: Json = receiver.recv()
    except EOFError as error:
        child.join()
        raise RuntimeError(
            f"{way.__name__} with vocabulary {vocabulary} ended with exit code {child.exitcode}: "
            "the plain way needs 16 GB of free memory"
        ) from error
    child.join()
    return {key: torch.from_numpy(value) if hasattr(value, "dtype") else value for key, value in result.items()}


def _measure(way: Callable[[Tensor, Tensor, Tensor], Tensor], vocabulary: int, sender: Connection) -> None:
    torch.manual_seed(0)
    hidden_SE = torch.randn(TOKENS, HIDDEN)
    weight_VE = torch.randn(vocabulary, HIDDEN) * 0.3
    targets_S = torch.randint(vocabulary, (TOKENS,))
    upstream_S = torch.randn(TOKENS)
    # A first call on a few tokens, so that libraries and thread pools are not counted.
    way(hidden_SE[:2].requires_grad_(), weight_VE[:64].clone().requires_grad_(), targets_S[:2] % 64).sum().backward()
    hidden_SE, weight_VE = hidden_SE.detach().requires_grad_(), weight_VE.requires_grad_()

    before, start = _peak_mib(), time.perf_counter()
    logp_S = way(hidden_SE, weight_VE, targets_S)
    (logp_S * upstream_S).sum().backward()
    seconds, after = time.perf_counter() - start, _peak_mib()
    assert hidden_SE.grad is not None
    assert weight_VE.grad is not None
    sender.send(
        {
            "peak_mib": after - before,
            "seconds": seconds,
            "logp": logp_S.detach().numpy(),
            "hidden_grad": hidden_SE.grad.numpy(),
            "weight_grad": weight_VE.grad.numpy(),
        }
    )
    sender.close()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
