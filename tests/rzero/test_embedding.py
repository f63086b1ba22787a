"""Texts as vectors of a random model: means over tokens, of length 1, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rzero.embedding import HiddenStates
from rzero.policy import Policy

TEXTS = ["What is 3 + 4?", "Name a prime above one hundred.", "x", ""]


def test_a_vector_is_the_mean_of_the_models_states(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy("qwen3", seed=0)
    found = HiddenStates(load=lambda: policy, depth=1.0, texts_per_pass=2, threads=1).embed(TEXTS)
    assert found.dtype == np.float32
    for text, vector in zip(TEXTS[:3], found, strict=False):
        ids = torch.tensor([policy.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            state = policy.model(ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
        assert vector == pytest.approx((state / state.norm()).numpy(), abs=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert not found[3].any()


def test_the_same_texts_give_the_same_bits_and_others_change_rounding_only(make_policy: Callable[..., Policy]) -> None:
    embedder = HiddenStates(load=lambda: make_policy("qwen3", seed=0), depth=0.5, texts_per_pass=8, threads=1)
    together = embedder.embed(TEXTS)
    assert together.tobytes() == embedder.embed(TEXTS).tobytes()
    assert embedder.embed(TEXTS[1:2])[0] == pytest.approx(together[1], abs=1e-5)
    assert embedder.embed([]).shape == (0, together.shape[1])


def test_the_model_is_loaded_when_the_first_text_comes(make_policy: Callable[..., Policy]) -> None:
    loaded: list[int] = []

    def load() -> Policy:
        loaded.append(1)
        return make_policy("qwen3", seed=0)

    embedder = HiddenStates(load=load, depth=0.0, texts_per_pass=8, threads=1)
    assert not loaded
    embedder.embed(["a"])
    embedder.embed(["b"])
    assert loaded == [1]


@pytest.mark.parametrize("wrong", [{"depth": 1.5}, {"texts_per_pass": 0}, {"threads": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="embedder"):
        HiddenStates(**{"load": lambda: None, "depth": 0.5, "texts_per_pass": 1, "threads": 1, **wrong})  # type: ignore[arg-type]
