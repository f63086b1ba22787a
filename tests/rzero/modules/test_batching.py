"""Micro-batches: nothing lost, nothing doubled, and a gradient that does not know how a step was cut."""

import random
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from transformers import Qwen3Config, Qwen3ForCausalLM

from experiments import PROJECT
from rzero.grpo import ConstantLength, MicroBatchMean, PolicyLoss, SequenceMean, TokenMean, mini_batch_totals
from rzero.modules.batching import (
    PADDING,
    Row,
    completion_mask,
    micro_batches,
    mini_batches,
    plan,
    rows_by_rank,
    rows_of,
)
from rzero.modules.logprobs import completion_logprobs
from rzero.types import Completion, Group, Prompt
from tests.experiments.small import config


def make_row(*, index=0, group=0, prompt_ids=(1,), completion_ids=(2,), counted=True):
    engine_logp = torch.arange(len(completion_ids)) - 10.0 * index
    return Row(
        index=index, group=group, prompt_ids=tuple(prompt_ids), completion_ids=tuple(completion_ids),
        engine_logp=engine_logp, counted=counted,
    )  # fmt: skip


def make_rows(count=8, *, group_size=4, seed=0):
    draw = random.Random(seed)
    return [
        make_row(
            index=index,
            group=index // group_size,
            completion_ids=[draw.randrange(3, 60) for _ in range(draw.randint(1, 12))],
            prompt_ids=[draw.randrange(3, 60) for _ in range(draw.randint(1, 9))],
        )
        for index in range(count)
    ]


def cut(rows, *, max_tokens, aggregation=None, share_prompts=False, count=0):
    mask_MC = completion_mask(rows)
    weights_MC = (aggregation or TokenMean()).weights(mask_MC, totals=mini_batch_totals(mask_MC))
    parts = plan(rows, max_tokens=max_tokens, share_prompts=share_prompts)
    return micro_batches(
        parts,
        weights_of={row.index: weights_C for row, weights_C in zip(rows, weights_MC, strict=True)},
        count=max(count, len(parts)),
        share_prompts=share_prompts,
        pad_id=0,
        device=torch.device("cpu"),
    )


def indices(parts):
    return [[row.index for row in part] for part in parts]


def test_rows_know_their_place_in_the_rollout_and_whether_they_count():
    def completion(*ids, reason):
        return Completion(text="", token_ids=ids, logprobs=(-0.5,) * len(ids), finish_reason=reason)

    groups = [
        Group(prompt=Prompt(user="x"), prompt_ids=(1, 2), completions=(completion(3, reason="stop"),)),
        Group(
            prompt=Prompt(user="y"),
            prompt_ids=(4,),
            completions=(completion(5, 6, reason="length"), completion(7, reason="stop")),
        ),
    ]
    rows = rows_of(groups, counts=lambda reason: reason == "stop")
    assert [(row.index, row.group, row.prompt_ids, row.completion_ids, row.counted) for row in rows] == [
        (0, 0, (1, 2), (3,), True),
        (1, 1, (4,), (5, 6), False),
        (2, 1, (4,), (7,), True),
    ]
    assert rows[1].engine_logp.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("max_tokens", [21, 40, 64, 10_000])
def test_every_row_once_within_the_budget(max_tokens):
    rows = make_rows(23)
    batches = cut(rows, max_tokens=max_tokens)
    assert sorted(torch.cat([batch.index_B for batch in batches]).tolist()) == list(range(23))
    for batch in batches:
        assert batch.input_ids_BT.numel() <= max_tokens
        assert batch.input_ids_BT.shape[1] == max(rows[index].length for index in batch.index_B)  # trimmed
        for position, index in enumerate(batch.index_B):
            row, length = rows[index], rows[index].length
            assert batch.input_ids_BT[position, :length].tolist() == [*row.prompt_ids, *row.completion_ids]
            assert not batch.input_ids_BT[position, length:].any()
            assert (
                tuple(batch.input_ids_BT[position][batch.completion_mask_BT[position]].tolist()) == row.completion_ids
            )
            assert torch.equal(batch.engine_logp_BT[position][batch.completion_mask_BT[position]], row.engine_logp)
        assert not batch.engine_logp_BT[~batch.completion_mask_BT].any()
    assert sum(batch.weights_BT.sum().item() for batch in batches) == pytest.approx(1.0, abs=1e-5)


def test_longest_first_ties_in_order_and_deterministic():
    rows = [make_row(index=index, completion_ids=(2,) * (n - 1)) for index, n in enumerate((3, 9, 3, 9, 5))]
    assert indices(plan(rows, max_tokens=18, share_prompts=False)) == [[1, 3], [4, 0, 2]]
    assert indices(plan(rows, max_tokens=9, share_prompts=False)) == [[1], [3], [4], [0, 2]]
    assert plan([], max_tokens=9, share_prompts=False) == []
    rows = make_rows(9)
    first, second = (cut(rows, max_tokens=50) for _ in range(2))
    assert all(torch.equal(a.input_ids_BT, b.input_ids_BT) for a, b in zip(first, second, strict=True))


def prompted(*lengths_of):
    """Rows of the given completion lengths, one list for each prompt; prompt i has i + 2 tokens."""
    rows = [(prompt, length) for prompt, lengths in enumerate(lengths_of) for length in lengths]
    return [
        make_row(index=index, group=prompt, prompt_ids=(prompt,) * (prompt + 2), completion_ids=(9,) * length)
        for index, (prompt, length) in enumerate(rows)
    ]


def test_rows_of_one_prompt_stay_together_and_count_it_once():
    rows = prompted([4, 4], [5, 1, 1], [2, 2])  # 2 + 8, 3 + 7 and 4 + 4 tokens
    assert indices(plan(rows, max_tokens=28, share_prompts=True)) == [[0, 1, 2, 3, 4, 5, 6]]
    assert indices(plan(rows, max_tokens=27, share_prompts=True)) == [[0, 1, 2, 3, 4], [5, 6]]
    assert indices(plan(rows, max_tokens=19, share_prompts=True)) == [[0, 1], [2, 3, 4, 5, 6]]
    assert indices(plan(rows, max_tokens=8, share_prompts=True)) == [
        [0],
        [1],
        [2],
        [3, 4],
        [5, 6],
    ]  # cut where it has to be
    shuffled = [rows[index] for index in (5, 0, 3, 1, 6, 4, 2)]
    assert indices(plan(shuffled, max_tokens=19, share_prompts=True)) == [[0, 1], [3, 4, 2, 5, 6]]
    assert plan([], max_tokens=9, share_prompts=True) == []
    with pytest.raises(ValueError, match="max_tokens_per_microbatch=7 is less than the longest row"):
        plan(rows, max_tokens=7, share_prompts=True)


def test_rows_of_several_groups_may_share_a_prompt():
    rows = [replace(row, group=index // 2) for index, row in enumerate(prompted([3] * 6))]
    [batch] = cut(rows, max_tokens=20, share_prompts=True)
    assert batch.prompts == (0,) * 6
    assert batch.index_B.tolist() == list(range(6))
    assert {len(part) for part in plan(rows, max_tokens=12, share_prompts=True)} == {3}
    assert [batch.prompts for batch in cut(rows, max_tokens=20)] == [None] * 2


@pytest.mark.parametrize("seed", range(20))
def test_sharing_loses_no_row_and_keeps_to_the_budget(seed):
    draw = random.Random(seed)
    rows = prompted(*([draw.randint(1, 12) for _ in range(draw.randint(1, 5))] for _ in range(draw.randint(1, 9))))
    draw.shuffle(rows)
    budget = draw.randint(max(row.length for row in rows), 60)
    batches = cut(rows, max_tokens=budget, share_prompts=True)
    by_index = {row.index: row for row in rows}
    assert sorted(index for batch in batches for index in batch.index_B.tolist()) == list(range(len(rows)))
    for batch in batches:
        own = [by_index[index] for index in batch.index_B.tolist()]
        tokens = sum(len(row.completion_ids) for row in own)
        prompts = {row.prompt_ids for row in own}
        assert tokens + sum(map(len, prompts)) <= budget
        numbered = {(number, row.prompt_ids) for number, row in zip(batch.prompts, own, strict=True)}
        assert len(numbered) == len(set(batch.prompts)) == len(prompts)


def test_rows_that_do_not_count_are_scored_but_not_learned_from():
    rows = make_rows(4)
    rows[2] = replace(rows[2], counted=False)
    assert mini_batch_totals(completion_mask(rows)).sequences == 4, "masked truncation leaves it among the completions"
    assert completion_mask(rows).any(dim=1).tolist() == [True, True, False, True]
    for batch in cut(rows, max_tokens=60):
        for position, index in enumerate(batch.index_B):
            assert batch.mask_BT[position].any() == (index != 2)
            assert batch.weights_BT[position].any() == (index != 2)
            assert batch.completion_mask_BT[position].any()


def test_the_last_eos_is_learned_where_it_is_also_the_pad_token():
    """trl#6357: which tokens count goes by position; `cut` fills up with 0."""
    [batch] = cut([make_row(completion_ids=(5, 6, 7, 0)), make_row(index=1, completion_ids=(5, 0))], max_tokens=100)
    assert batch.input_ids_BT.tolist() == [[1, 5, 6, 7, 0], [1, 5, 0, 0, 0]]
    assert batch.mask_BT.tolist() == [[False, True, True, True, True], [False, True, True, False, False]]
    assert (batch.weights_BT > 0).tolist() == batch.mask_BT.tolist()


def test_mini_batches_are_whole_groups():
    rows = [replace(row, group=group) for row, group in zip(make_rows(10), [7, 7, 3, 3, 9, 9, 1, 1, 7, 5], strict=True)]
    # groups in order 7, 3, 9 | 1, 5
    assert indices(mini_batches(rows, updates=2)) == [[0, 1, 2, 3, 4, 5, 8], [6, 7, 9]]
    assert mini_batches(rows, updates=1) == [rows]
    assert [len({row.group for row in part}) for part in mini_batches(rows, updates=5)] == [1] * 5
    with pytest.raises(ValueError, match=r"updates_per_rollout must lie in 1\.\.5"):
        mini_batches(rows, updates=6)


@pytest.mark.parametrize("share_prompts", [False, True])
def test_each_row_belongs_to_one_rank_and_a_shared_prompt_too(share_prompts):
    rows = make_rows(11, group_size=2)
    by_rank = rows_by_rank(rows, size=3, share_prompts=share_prompts)
    assert sorted(row.index for part in by_rank for row in part) == list(range(11))
    assert all(part == sorted(part) for part in indices(by_rank))
    ranks_of_group = [sum(group in {row.group for row in part} for part in by_rank) for group in range(6)]
    assert (max(ranks_of_group) == 1) == share_prompts
    assert rows_by_rank(rows, size=1, share_prompts=share_prompts) == [rows]


def test_refusals():
    rows = make_rows(3)
    with pytest.raises(ValueError, match="max_tokens_per_microbatch=4 is less than the longest row"):
        cut(rows, max_tokens=4)
    with pytest.raises(ValueError, match="a prompt and a completion"):
        replace(rows[0], completion_ids=())
    with pytest.raises(ValueError, match="engine_logp needs one value per completion token"):
        replace(rows[0], engine_logp=torch.zeros(len(rows[0].completion_ids) + 1))


def tiny_model():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=48,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    ).double()


def score(model, batch, *, temperature, chunk_tokens=7):
    """Log-probs and entropies of a micro-batch."""
    return completion_logprobs(
        model,
        batch.input_ids_BT,
        batch.completion_mask_BT,
        temperature=temperature,
        chunk_tokens=chunk_tokens,
        entropy=True,
    )


def step(model, rows, loss, *, temperature=1.3, old_logps=None, **options):
    """Gradients and summed metrics of one optimiser step, cut as `options` say. `old_logps`: by index; None: ours."""
    model.zero_grad()
    advantages_N = torch.randn(len(rows) + 1, generator=torch.Generator().manual_seed(2))
    advantages_N[PADDING] = 0.0
    metrics: dict[str, float] = {}
    for batch in cut(rows, aggregation=loss.aggregation, **options):
        logp_BT, entropy_BT = score(model, batch, temperature=temperature)
        old_logp_BT = logp_BT.detach().clone()
        if old_logps is not None:
            old_logp_BT[batch.completion_mask_BT] = torch.cat([old_logps[index] for index in batch.index_B.tolist()])
        output = loss(
            logp_BT=logp_BT,
            old_logp_BT=old_logp_BT,
            ref_logp_BT=None,
            advantages_B=advantages_N[batch.index_B],
            weights_BT=batch.weights_BT,
            mask_BT=batch.mask_BT,
            entropy_BT=entropy_BT,
        )
        output.loss.backward()
        for name, value in output.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value.item()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, metrics


@pytest.mark.parametrize(
    "aggregation", [SequenceMean(), TokenMean(), ConstantLength(max_tokens=12), MicroBatchMean(size=2)], ids=repr
)
def test_gradient_is_the_same_for_any_cut(aggregation):
    """One micro-batch of eight rows, eight of one, token budgets between, and zero-weight padding."""
    model, rows = tiny_model(), make_rows(8)
    loss = PolicyLoss(clip_low=0.2, clip_high=0.3, entropy_coefficient=0.1, aggregation=aggregation)
    expected, expected_metrics = step(model, rows, loss, max_tokens=1000)
    longest = max(row.length for row in rows)
    for options in (
        {"max_tokens": longest},
        {"max_tokens": 30},
        {"max_tokens": 55},
        {"max_tokens": 55, "count": 9},
    ):
        gradients, metrics = step(model, rows, loss, **options)
        assert metrics == pytest.approx(expected_metrics, rel=1e-6, abs=1e-9)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("name", sorted(path.stem for path in (PROJECT / "conf" / "loss").glob("*.yaml")))
def test_every_loss_of_the_configuration_leaves_no_trace_of_the_cut(name):
    """Rows of 3 to 40 tokens, one of them masked (trl#3021, verl#5625)."""
    loss = replace(instantiate(config(f"loss@solver.loss={name}").solver.loss), kl_coefficient=0.0)
    model = tiny_model()
    rows = [
        make_row(index=index, group=index, prompt_ids=(5, 6), completion_ids=range(9, 9 + n), counted=n != 17)
        for index, n in enumerate((1, 38, 2, 17, 9, 25, 3))
    ]
    expected, expected_metrics = step(model, rows, loss, max_tokens=4000)
    assert any(gradient.any() for gradient in expected.values())
    for options in ({"max_tokens": 40}, {"max_tokens": 80, "count": 9}):
        gradients, metrics = step(model, rows, loss, **options)
        assert metrics == pytest.approx(expected_metrics, rel=1e-6, abs=1e-9)
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[parameter], atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_a_row_is_scored_alike_alone_and_beside_one_five_times_as_long(make_policy, family):
    """Padding is on the right: no token sees it, and no position moves, absolute ones either (trl#2708, trl#6800)."""
    model = make_policy(family).model
    short = make_row(prompt_ids=(5, 6), completion_ids=(9, 10, 11, 12))
    long = make_row(index=1, group=1, prompt_ids=(7,), completion_ids=range(20, 49))

    def scored(rows):
        [batch] = cut(rows, max_tokens=1000)
        with torch.no_grad():
            logp_BT, _ = score(model, batch, temperature=1.0)
        place = batch.index_B.tolist().index(0)
        return logp_BT[place][batch.completion_mask_BT[place]]

    torch.testing.assert_close(scored([short, long]), scored([short]), atol=1e-5, rtol=0)


def test_weightless_micro_batches_give_every_parameter_a_zero_gradient():
    model = tiny_model()
    batch = cut(make_rows(2), max_tokens=100, count=3)[-1]
    assert batch.index_B.tolist() == [PADDING]
    assert not batch.mask_BT.any()
    logp_BT, _ = score(model, batch, temperature=1.0)
    loss = PolicyLoss(clip_low=0.2, clip_high=0.3, aggregation=TokenMean())
    output = loss(
        logp_BT=logp_BT,
        old_logp_BT=logp_BT.detach(),
        ref_logp_BT=None,
        advantages_B=torch.ones(1),
        weights_BT=batch.weights_BT,
        mask_BT=batch.mask_BT,
    )
    output.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_first_step_is_on_policy_at_any_temperature(temperature, importance):
    """Old log-probs are recomputed under another cut than the update's, at the same temperature: the ratio is 1."""
    model, rows = tiny_model().float(), make_rows(8)
    [batch] = cut(rows, max_tokens=1000)
    with torch.no_grad():
        old_logp_BT, _ = score(model, batch, temperature=temperature, chunk_tokens=1000)
    old_logps = {
        index: old_logp_T[mask_T]
        for index, old_logp_T, mask_T in zip(batch.index_B.tolist(), old_logp_BT, batch.completion_mask_BT, strict=True)
    }
    loss = PolicyLoss(clip_low=1e-4, clip_high=1e-4, importance=importance, aggregation=TokenMean())
    _, metrics = step(model, rows, loss, max_tokens=30, temperature=temperature, old_logps=old_logps)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["ppo_kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["clip_ratio/low_mean"] == metrics["clip_ratio/high_mean"] == 0.0
