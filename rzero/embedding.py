"""Texts as vectors, from what a language model makes of them: kinds of questions are told apart without an oracle.

Shapes: N texts, B of them in one pass, T tokens, E model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rzero.engines.threads import torch_threads
from rzero.policy import Policy, unwrap_adapters


class HiddenStates:
    """An `Embedder`: the mean over a text's tokens of a base model's states behind one layer, scaled to length 1.

    load: returns the model, which is asked for when the first text comes and then kept. depth: the layer as a share in
    [0, 1] of all layers; 0 is the embedding of the tokens, 1 what the head sees. In the middle, states say what a text
    is about more than how it goes on. texts_per_pass: texts side by side. threads: torch threads. device: where the
    model is put, such as cuda; None: where it is loaded.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Policy],
        depth: float,
        texts_per_pass: int,
        threads: int,
        device: str | None = None,
    ) -> None:
        if not 0 <= depth <= 1:
            raise ValueError(f"embedder.depth must lie in [0, 1], got {depth}; 0.5 is the middle layer")
        if texts_per_pass < 1 or threads < 1:
            raise ValueError(f"embedder.texts_per_pass and threads must be at least 1, got {texts_per_pass}, {threads}")
        self._load, self._depth, self._texts_per_pass, self._threads = load, depth, texts_per_pass, threads
        self._device = None if device is None else torch.device(device)
        self._policy: Policy | None = None

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns vectors [N, E] in the order of the texts; a text without a token is the zero vector."""
        policy = self._policy = self._policy or self._loaded()
        ids = [policy.tokenizer(text, add_special_tokens=False)["input_ids"][: policy.context()] for text in texts]
        width: int = policy.model.config.get_text_config().hidden_size
        vectors_NE = np.zeros((len(texts), width), dtype=np.float32)
        order = sorted((index for index in range(len(ids)) if ids[index]), key=lambda index: len(ids[index]))
        with torch_threads(self._threads):
            for first in range(0, len(order), self._texts_per_pass):
                chosen = order[first : first + self._texts_per_pass]
                vectors_NE[chosen] = self._pass(policy, [ids[index] for index in chosen])
        return vectors_NE

    def _loaded(self) -> Policy:
        policy = self._load()
        policy.model.eval().requires_grad_(False)
        if self._device is not None:
            policy.model.to(self._device)  # type: ignore[arg-type]
        return policy

    def _pass(self, policy: Policy, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors [B, E]. Rows are padded on the right, where causal attention keeps padding from being seen."""
        longest, pad = max(map(len, ids)), policy.pad_id()
        model = unwrap_adapters(policy.model)
        ids_BT = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids], device=model.device)
        mask_BT = torch.tensor([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in ids], device=model.device)
        states: Sequence[Tensor] = model.base_model(ids_BT, output_hidden_states=True, use_cache=False).hidden_states
        state_BTE = states[round(self._depth * (len(states) - 1))].float()
        mean_BE = (state_BTE * mask_BT[:, :, None]).sum(1) / mask_BT.sum(1, keepdim=True)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(mean_BE, dim=-1).cpu().numpy()
        return unit
