"""Checking after each sync that an engine samples from the policy that learns.

By log-probs on a short probe, which find a decoder that is wrong or weights that were not loaded, and for vLLM also by
the checksums of its weights: in bf16 the log-probs of the step before differ by less than rounding does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rzero.gathering import Part
from rzero.modes import in_mode
from rzero.policy import Policy

# Nats, or a share of the largest log-prob, because rounding grows with the logits. fp32: decoders agree to about 1e-6,
# a stale matrix is off by more than 1e-2; in Gemma 3 270M, whose log-probs reach -40 nats, two right passes differ by
# 3e-4, and each by as much from the same pass in fp64. bf16: two right passes of the micro model, whose log-probs reach
# -26 nats, differ by 0.14, so that only gross errors are found, such as a head that was not loaded (about 1 nat).
TOLERANCES = {
    torch.float64: (1e-4, 2e-5),
    torch.float32: (1e-4, 2e-5),
    torch.float16: (0.01, 2e-3),
    torch.bfloat16: (0.1, 2e-2),
}


def probe_prompts(policy: Policy) -> list[list[int]]:
    """Returns two short sequences of token ids, of different length."""
    vocabulary = policy.vocabulary()
    return [[(7 * i + 3) % vocabulary for i in range(length)] for length in (3, 6)]


@torch.no_grad()
def policy_logprobs(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Returns the policy's own log-probs [len(ids), V] (nats, temperature 1) of the token behind each of `ids`."""
    with in_mode(policy.model, training=False):
        ids_1T = torch.tensor([ids], device=policy.model.device)
        logits_TV: Tensor = policy.model(input_ids=ids_1T, use_cache=False).logits[0].float()
        return logits_TV.log_softmax(-1).cpu()


def rollout_dtype(name: str | None) -> torch.dtype | None:
    """Returns `engine.dtype` as torch has it. Raises ValueError for one in which rollouts cannot be checked."""
    if name is None:
        return None
    known = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
    if name not in known:
        raise ValueError(f"engine.dtype must be null or one of {', '.join(known)}, got {name!r}")
    return known[name]


def coarser(*dtypes: torch.dtype) -> torch.dtype:
    """Returns the one that rounds most."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def require_agreement(
    own: Tensor, expected: Tensor, *, largest: float, dtype: torch.dtype, tolerance: float | None = None
) -> None:
    """Raises RuntimeError when log-probs (nats, any shape) differ by more than rounding in `dtype`, or are no numbers.

    largest: size of the policy's largest log-prob at these positions, over the whole vocabulary. tolerance: nats to
    allow in place of those of `TOLERANCES`.
    """
    nats, share = TOLERANCES[dtype]
    allowed = max(nats if tolerance is None else tolerance, share * largest)
    difference = float((own.cpu() - expected.cpu()).abs().max())
    if not difference <= allowed:
        raise RuntimeError(
            f"the engine's log-probs differ from the policy's by {difference:.3g} nats "
            f"(at most {allowed:.3g} allowed): its weights are stale or its decoder is wrong"
        )


def fingerprinted(parts: Sequence[Part], into: dict[str, int]) -> list[Part]:
    """Returns parts that leave a number in `into`, under their names, when they are gathered.

    Where the numbers differ, the tensors do. They are xors of all elements (`torch.hash_tensor`), computed where the
    tensor is: a sha256 of eight gigabytes would cost rank 0 seconds.
    """

    def noting(part: Part) -> Part:
        def gather() -> Tensor:
            tensor = part.gather()
            into.update(dict.fromkeys(part.names, int(torch.hash_tensor(tensor).view(torch.int64))))
            return tensor

        return replace(part, gather=gather)

    return [noting(part) for part in parts]


_OF_NOTHING = hashlib.sha256().hexdigest()
"""The checksum of a parameter that vLLM on CPUs has emptied, because a packed copy is computed with."""


class Checksums:
    """Holds what replicas of vLLM say of their weights against what they were given, sync after sync.

    vLLM fuses, pads and splits tensors, so its checksums cannot be known beforehand. But all replicas must have the
    same ones, and a tensor that changed on the way from one sync to the next must have changed there too.
    """

    def __init__(self) -> None:
        self._given: Mapping[str, int] = {}
        self._said: Mapping[str, str] = {}

    def check(self, given: Mapping[str, int], said: Mapping[str, Mapping[str, str]]) -> None:
        """Takes the fingerprints of what was given, and what each replica said, by its name.

        Raises RuntimeError naming the replica that has other weights than the first, or still those of the sync before.
        """
        first, *others = said
        for other in others:
            if different := sorted(set(said[first].items()) ^ set(said[other].items())):
                raise RuntimeError(
                    f"{other} has other weights than {first}: {len({name for name, _ in different})} checksums differ, "
                    f"such as that of {different[0][0]}"
                )
        changed = {name for name, number in given.items() if self._given.get(name, number) != number}
        if stale := self._stale(changed, said[first]):
            raise RuntimeError(
                f"{' and '.join(said)} still has weights of the sync before: {len(stale)} tensors changed, their "
                f"checksums did not, such as that of {stale[0]}"
            )
        self._given, self._said = dict(given), dict(said[first])

    def _stale(self, changed: set[str], said: Mapping[str, str]) -> list[str]:
        """Names of tensors that changed and whose checksums, or all of those when they are fused, did not."""
        visible = {name for name, value in said.items() if value != _OF_NOTHING}
        moved = {_tensor(name) for name in visible if self._said.get(name) != said[name]}
        stale = sorted((changed & {_tensor(name) for name in visible}) - moved)
        return stale or (sorted(changed) if len(visible) == len(said) and not moved else [])


def _tensor(name: str) -> str:
    """The name without the worker that has the tensor, as in `dp0:pp0:pcp0:tp1:model.norm.weight`."""
    return name.rpartition(":")[2]
