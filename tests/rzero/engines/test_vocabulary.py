"""Vocabulary dropout: what may be dropped, masks that change, and log-probs of engine and trainer that know of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rzero.engines.embedded import EmbeddedEngine
from rzero.engines.sampling import row_keys
from rzero.engines.vllm.requests import row_requests
from rzero.engines.vocabulary import dropouts, droppable_tokens, dropped_tokens, is_of_a_word
from rzero.modules.batching import micro_batches, rows_of
from rzero.modules.logprobs import Dropped, LogitShape, completion_logprobs, head_logprobs
from rzero.modules.shared_prompts import make_ready
from rzero.policy import Policy
from rzero.types import Prompt, Sampling
from tests.rzero.engines.test_embedded import SETTINGS
from tests.tiny_models import build_tokenizer

MakePolicy = Callable[..., Policy]
HALF = Sampling(n=6, max_tokens=12, seed=5, temperature=0.8, vocabulary_dropout=0.5)


def droppable_of(policy: Policy) -> np.ndarray:
    return droppable_tokens(policy.tokenizer, vocabulary=policy.vocabulary(), eos_ids=policy.eos_ids())


@pytest.mark.parametrize(
    ("text", "may"),
    [("The", True), (" apples", True), ("Question", True), (".\n\nLet", True), ("Zahlen", True),
     ("question", False), ("</question>", False), ("ques", False), (" \\boxed{", False), ("think", False),
     (" a", False), ("42", False), ("\n\n", False), ("}$", False), ("caf\ufffd", False), ("", False)],
)  # fmt: skip
def test_pieces_of_words_may_be_dropped_and_what_the_contract_needs_stays(text: str, may: bool) -> None:
    assert is_of_a_word(text) == may


def test_control_tokens_ends_and_rows_without_a_token_stay() -> None:
    tokenizer = build_tokenizer()
    free_V = droppable_tokens(tokenizer, vocabulary=len(tokenizer) + 5, eos_ids=())
    texts = [tokenizer.decode([number]) for number in free_V.nonzero()[0]]
    assert len(texts) > 10
    assert all(map(is_of_a_word, texts))
    assert not any("<" in text for text in texts)
    assert not free_V[len(tokenizer) :].any()
    one = int(free_V.nonzero()[0][3])
    held_V = droppable_tokens(tokenizer, vocabulary=len(tokenizer) + 5, eos_ids=(one, 0))
    assert np.flatnonzero(free_V != held_V).tolist() == [one]


def test_masks_have_their_share_and_differ_between_completions_calls_and_steps() -> None:
    droppable_V = np.arange(4000) % 2 == 0
    places = np.arange(3)
    keys = [row_keys(seed, prompt_index=places * 0, sample_index=places) for seed in (1, 2)]
    masks = [dropped_tokens(droppable_V, dropouts(of_call, share=0.25)) for of_call in keys]
    assert not any(mask[:, ~droppable_V].any() for mask in masks)
    assert all(abs(mask.sum(axis=1) / 2000 - 0.25).max() < 0.04 for mask in masks)
    different = {mask.tobytes() for call in masks for mask in call}
    assert len(different) == 6
    assert np.array_equal(masks[0][1:2], dropped_tokens(droppable_V, dropouts(keys[0][1:2], share=0.25)))
    assert dropouts(keys[0], share=0.0) == [None] * 3
    assert not dropped_tokens(droppable_V, [None]).any()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_engine_draws_from_what_is_left_and_its_log_probs_are_those_of_it(
    make_policy: MakePolicy, temperature: float
) -> None:
    policy = make_policy("qwen3_tied")
    engine = EmbeddedEngine(**SETTINGS)
    engine.sync(policy)
    [group, other] = engine.generate(
        [Prompt(user="What?"), Prompt(user="Let x be a number.")], replace(HALF, temperature=temperature)
    )
    droppable_V = droppable_of(policy)
    for completion in (*group.completions, *other.completions):
        prompt_ids = (group if completion in group.completions else other).prompt_ids
        dropped_V = torch.from_numpy(dropped_tokens(droppable_V, [completion.dropout])[0])
        assert not dropped_V[list(completion.token_ids)].any()
        ids = torch.tensor([[*prompt_ids, *completion.token_ids]])
        with torch.no_grad():
            logits_TV = policy.model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1] / (temperature or 1.0)
        expected_T = logits_TV.masked_fill(dropped_V, -torch.inf).log_softmax(-1)
        own_T = expected_T.gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(completion.logprobs), own_T, atol=1e-4, rtol=1e-4)
    assert len({completion.dropout for completion in (*group.completions, *other.completions)}) == 12
    [[completion, *_]] = [
        found.completions for found in engine.generate([Prompt(user="What?")], Sampling(max_tokens=3))
    ]
    assert completion.dropout is None


@pytest.mark.parametrize("share_prompts", [False, True])
def test_the_trainer_scores_the_distribution_that_was_drawn_from(make_policy: MakePolicy, share_prompts: bool) -> None:
    policy = make_policy("qwen3_tied")
    engine = EmbeddedEngine(**SETTINGS)
    engine.sync(policy)
    groups = engine.generate([Prompt(user="What?"), Prompt(user="Find x.")], HALF)
    rows = rows_of(groups, counts=lambda _: True)
    if share_prompts:
        make_ready(policy.model)
    parts = micro_batches(
        [rows[:7], rows[7:]],
        weights_of={row.index: torch.ones(len(row.completion_ids)) for row in rows},
        count=3,
        share_prompts=share_prompts,
        pad_id=0,
        device=torch.device("cpu"),
        droppable_V=droppable_of(policy),
    )
    for part in parts:
        logp_BT, entropy_BT = completion_logprobs(
            policy.model,
            part.input_ids_BT,
            part.completion_mask_BT,
            temperature=0.8,
            chunk_tokens=5,
            entropy=True,
            prompts=part.prompts,
            dropped_BV=part.dropped_BV,
        )
        assert entropy_BT is not None
        assert bool(torch.isfinite(entropy_BT).all())
        torch.testing.assert_close(logp_BT[part.mask_BT], part.engine_logp_BT[part.mask_BT], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(scale=0.5, cap=3.0, temperature=1.7)], ids=["plain", "cap"])
def test_gradients_know_of_dropped_tokens(shape: LogitShape) -> None:
    """By finite differences, and by hand for three tokens of equal logits of which one is dropped: p = 1/2, not 1/3."""
    torch.manual_seed(1)
    dropped = Dropped(tokens_BV=torch.rand(2, 7) < 0.4, row_S=torch.tensor([0, 0, 1, 1, 1]))
    dropped.tokens_BV[:, [0, 3]] = False

    def both(*factors: torch.Tensor) -> Any:
        hidden_SE, weight_VE = factors
        return head_logprobs(
            hidden_SE, weight_VE=weight_VE, targets_S=torch.tensor([0, 3, 3, 0, 0]), shape=shape, chunk_tokens=2,
            entropy=True, dropped=dropped,
        )  # fmt: skip

    factors = [torch.randn(size, 3, dtype=torch.float64, requires_grad=True) for size in (5, 7)]
    assert torch.autograd.gradcheck(both, factors)
    one = Dropped(tokens_BV=torch.tensor([[False, False, True]]), row_S=torch.tensor([0]))
    logp_S, entropy_S = head_logprobs(
        torch.ones(1, 2), weight_VE=torch.zeros(3, 2), targets_S=torch.tensor([1]), shape=LogitShape(), chunk_tokens=4,
        entropy=True, dropped=one,
    )  # fmt: skip
    assert logp_S.item() == pytest.approx(-np.log(2))
    assert entropy_S is not None
    assert entropy_S.item() == pytest.approx(np.log(2))


def test_vllm_refuses_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^vocabulary_dropout needs engine=embedded"):
        row_requests([], [], HALF, eos_ids=[0])
    with pytest.raises(ValueError, match="vocabulary_dropout must lie in"):
        Sampling(max_tokens=1, vocabulary_dropout=1.0)
