"""A decoder on any transformers causal language model, through its own forward pass and cache.

Slower than the fused decoder, and right for whatever architecture transformers knows. Prompts are padded on the left.

Shapes: B rows, Y of them that are kept, P prompts, L longest prompt, T positions, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel


class GenericDecoder:
    """Decodes with a private model of the same architecture, so that training does not change a rollout halfway.

    dtype, device: of the private model; weights are rounded and moved to it when they are loaded.
    """

    def __init__(self, model: PreTrainedModel, *, dtype: torch.dtype, device: torch.device) -> None:
        # A fresh model, because the given one may have adapter layers in it. Its random weights are overwritten by
        # load(); they must not be paid for from the caller's random generator.
        with torch.random.fork_rng(devices=[]):
            fresh = type(model)(copy.deepcopy(model.config))
        # torch's own `to`: the one of transformers has no types
        nn.Module.to(fresh, device=device, dtype=dtype)
        self._model = fresh.eval().requires_grad_(False)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        own = self._model.state_dict()
        if own.keys() != weights.keys():
            raise ValueError(f"weights do not fit the model: {sorted(own.keys() ^ weights.keys())[:5]} differ")
        for name, tensor in own.items():
            tensor.copy_(weights[name])

    def start(
        self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int], max_new: int
    ) -> tuple[GenericSession, Tensor]:
        del max_new  # the cache grows by itself
        session = GenericSession(self._model, prompt_of_row=torch.as_tensor(prompt_of_row, device=self._model.device))
        return session, session.read(prompts)


class GenericSession:
    def __init__(self, model: PreTrainedModel, *, prompt_of_row: Tensor) -> None:
        self._model = model
        self._prompt_B = prompt_of_row
        self._cache = DynamicCache(config=model.config)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Reads the prompts once, then gives every row its copy of the cache. Logits [B, V]."""
        longest = max(map(len, prompts))
        ids_PL = torch.tensor([[*([0] * (longest - len(p))), *p] for p in prompts], device=self._model.device)
        mask_PL = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self._model.device)
        logits_PV = self._forward(ids_PL, mask_PL, (mask_PL.cumsum(-1) - 1).clamp_(min=0))
        self._cache.batch_select_indices(self._prompt_B)
        self._mask_BT = mask_PL[self._prompt_B]
        self._position_B = mask_PL.sum(-1)[self._prompt_B]
        return logits_PV[self._prompt_B]

    def step(self, token_B: Tensor) -> Tensor:
        self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(token_B), 1)], -1)
        logits_BV = self._forward(token_B[:, None], self._mask_BT, self._position_B[:, None])
        self._position_B = self._position_B + 1
        return logits_BV

    def keep(self, kept_Y: Tensor) -> None:
        self._cache.batch_select_indices(kept_Y)
        self._mask_BT = self._mask_BT[kept_Y]
        self._position_B = self._position_B[kept_Y]

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        extra = {"position_ids": positions} if self._takes_positions else {}
        out = self._model(input_ids=ids, attention_mask=mask, past_key_values=self._cache, use_cache=True, **extra)
        return out.logits[:, -1].float()
