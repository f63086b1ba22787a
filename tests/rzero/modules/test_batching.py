"""Micro-batches: nothing lost, nothing doubled, and a gradient that does not know how a step was cut."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rzero.grpo import ConstantLength, MicroBatchMean, PolicyLoss, SequenceMean, TokenMean, window_totals
from rzero.modules.batching import NOT_A_ROW, Row, completion_mask, microbatches, plan, windows
from rzero.modules.logprobs import completion_logprobs


def make_rows(count=8, *, group_size=4, seed=0, logprobs=()):
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        completion_ids = tuple(draw.randrange(3, 60) for _ in range(draw.randint(1, 12)))
        rows.append(
            Row(
                prompt_ids=tuple(draw.randrange(3, 60) for _ in range(draw.randint(1, 9))),
                completion_ids=completion_ids,
                group=index // group_size,
                advantage=draw.uniform(-2, 2),
                **{name: torch.arange(len(completion_ids)) - 10.0 * index for name in logprobs},
            )
        )
    return rows


def cut(rows, *, aggregation=None, **options):
    mask_NC = completion_mask(rows)
    weights_NC = (aggregation or TokenMean()).weights(mask_NC, totals=window_totals(mask_NC))
    return microbatches(rows, weights_NC=weights_NC, **options)


@pytest.mark.parametrize("max_tokens", [21, 40, 64, 10_000])
def test_every_row_once_within_the_budget(max_tokens):
    rows = make_rows(23)
    batches = cut(rows, max_tokens=max_tokens)
    assert sorted(index for batch in batches for index in batch.rows) == list(range(23))
    for batch in batches:
        assert batch.input_ids_BT.numel() <= max_tokens
        assert batch.input_ids_BT.shape[1] == max(rows[index].length for index in batch.rows)  # trimmed
        for position, index in enumerate(batch.rows):
            row, length = rows[index], rows[index].length
            assert batch.input_ids_BT[position, :length].tolist() == [*row.prompt_ids, *row.completion_ids]
            assert batch.attention_mask_BT[position].sum() == length
            assert batch.position_ids_BT[position].tolist() == list(range(batch.input_ids_BT.shape[1]))
            assert (
                tuple(batch.input_ids_BT[position][batch.completion_mask_BT[position]].tolist()) == row.completion_ids
            )
            assert batch.advantages_B[position] == pytest.approx(row.advantage)
    assert sum(batch.weights_BT.sum().item() for batch in batches) == pytest.approx(1.0, abs=1e-5)


def test_longest_first_ties_in_order_and_deterministic():
    rows = [Row(prompt_ids=(1,), completion_ids=(2,) * (length - 1), group=0) for length in (3, 9, 3, 9, 5)]
    assert plan(rows, max_tokens=18) == [[1, 3], [4, 0, 2]]
    assert plan(rows, max_tokens=9) == [[1], [3], [4], [0, 2]]
    assert plan([], max_tokens=9) == []
    rows = make_rows(9)
    first, second = (cut(rows, max_tokens=50) for _ in range(2))
    assert all(torch.equal(a.input_ids_BT, b.input_ids_BT) for a, b in zip(first, second, strict=True))


def prompted(*lengths_of):
    """Rows of the given completion lengths, one list for each prompt; prompt i has i + 2 tokens."""
    return [
        Row(prompt_ids=(index,) * (index + 2), completion_ids=(9,) * length, group=index)
        for index, lengths in enumerate(lengths_of)
        for length in lengths
    ]


def test_rows_of_one_prompt_stay_together_and_count_it_once():
    rows = prompted([4, 4], [5, 1, 1], [2, 2])  # 2 + 8, 3 + 7 and 4 + 4 tokens
    assert plan(rows, max_tokens=28, share_prompts=True) == [[0, 1, 2, 3, 4, 5, 6]]
    assert plan(rows, max_tokens=27, share_prompts=True) == [[0, 1, 2, 3, 4], [5, 6]]
    assert plan(rows, max_tokens=19, share_prompts=True) == [[0, 1], [2, 3, 4, 5, 6]]
    assert plan(rows, max_tokens=8, share_prompts=True) == [[0], [1], [2], [3, 4], [5, 6]]  # cut where it has to be
    shuffled = [rows[index] for index in (5, 0, 3, 1, 6, 4, 2)]
    assert plan(shuffled, max_tokens=19, share_prompts=True) == [[1, 3], [2, 5, 6, 0, 4]]
    assert plan([], max_tokens=9, share_prompts=True) == []
    with pytest.raises(ValueError, match="max_tokens_per_microbatch=7 is less than the longest row"):
        plan(rows, max_tokens=7, share_prompts=True)


def test_rows_of_several_groups_may_share_a_prompt():
    rows = [replace(row, group=index // 2) for index, row in enumerate(prompted([3] * 6))]
    [batch] = cut(rows, max_tokens=20, share_prompts=True)
    assert batch.prompts == (0,) * 6
    assert batch.rows == tuple(range(6))
    assert {len(part) for part in plan(rows, max_tokens=12, share_prompts=True)} == {3}
    assert [batch.prompts for batch in cut(rows, max_tokens=20)] == [None] * 2


@pytest.mark.parametrize("seed", range(20))
def test_sharing_loses_no_row_and_keeps_to_the_budget(seed):
    draw = random.Random(seed)
    rows = prompted(*([draw.randint(1, 12) for _ in range(draw.randint(1, 5))] for _ in range(draw.randint(1, 9))))
    draw.shuffle(rows)
    budget = draw.randint(max(row.length for row in rows), 60)
    batches = cut(rows, max_tokens=budget, share_prompts=True)
    assert sorted(index for batch in batches for index in batch.rows) == list(range(len(rows)))
    for batch in batches:
        tokens = sum(len(rows[index].completion_ids) for index in batch.rows)
        assert tokens + sum(map(len, {rows[index].prompt_ids for index in batch.rows})) <= budget
        for number, index in zip(batch.prompts, batch.rows, strict=True):
            assert {
                rows[other].prompt_ids for n, other in zip(batch.prompts, batch.rows, strict=True) if n == number
            } == {rows[index].prompt_ids}


def test_log_probabilities_travel_with_their_tokens_and_come_back():
    rows = make_rows(6, logprobs=["old_logp", "engine_logp"])
    seen = set()
    for batch in cut(rows, max_tokens=45):
        assert batch.ref_logp_BT is None
        assert torch.equal(batch.old_logp_BT, batch.engine_logp_BT)
        assert not batch.old_logp_BT[~batch.completion_mask_BT].any()
        for index, values in batch.split(batch.old_logp_BT):
            assert torch.equal(values, rows[index].old_logp)
            seen.add(index)
    assert seen == set(range(6))


def test_rows_that_do_not_count_are_scored_but_not_learned_from():
    rows = make_rows(4)
    rows[2] = replace(rows[2], counted=False)
    totals = window_totals(completion_mask(rows))
    assert totals.sequences == 3
    for batch in cut(rows, max_tokens=60):
        for position, index in enumerate(batch.rows):
            assert batch.mask_BT[position].any() == (index != 2)
            assert batch.weights_BT[position].any() == (index != 2)
            assert batch.completion_mask_BT[position].any()


def test_windows_split_by_whole_groups():
    rows = [replace(row, group=group) for row, group in zip(make_rows(10), [7, 7, 3, 3, 9, 9, 1, 1, 7, 5], strict=True)]
    parts = windows(rows, updates=2)  # groups in order 7, 3, 9 | 1, 5
    assert parts == [[0, 1, 2, 3, 4, 5, 8], [6, 7, 9]]
    assert windows(rows, updates=1) == [list(range(10))]
    assert [len({rows[index].group for index in part}) for part in windows(rows, updates=5)] == [1] * 5
    with pytest.raises(ValueError, match=r"updates_per_rollout must lie in 1\.\.5"):
        windows(rows, updates=6)


def test_refusals():
    rows = make_rows(3)
    with pytest.raises(ValueError, match="max_tokens_per_microbatch=4 is less than the longest row"):
        cut(rows, max_tokens=4)
    with pytest.raises(ValueError, match="more than count=0"):
        cut(rows, max_tokens=100, count=0)
    with pytest.raises(ValueError, match="a prompt and a completion"):
        replace(rows[0], completion_ids=())
    with pytest.raises(ValueError, match="old_logp needs one value per completion token"):
        replace(rows[0], old_logp=torch.zeros(len(rows[0].completion_ids) + 1))


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


def step(model, rows, loss, *, temperature=1.3, **options):
    """Gradients and summed metrics of one optimiser step, cut as `options` say."""
    model.zero_grad()
    metrics: dict[str, float] = {}
    for batch in cut(rows, aggregation=loss.aggregation, **options):
        logp_BT, entropy_BT = completion_logprobs(
            model,
            batch.input_ids_BT,
            batch.attention_mask_BT,
            batch.completion_mask_BT,
            temperature=temperature,
            chunk_tokens=7,
            entropy=True,
        )
        output = loss(
            logp_BT=logp_BT,
            old_logp_BT=batch.old_logp_BT if batch.old_logp_BT is not None else logp_BT.detach(),
            ref_logp_BT=None,
            advantages_B=batch.advantages_B,
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


def test_weightless_micro_batches_give_every_parameter_a_zero_gradient():
    model, rows = tiny_model(), make_rows(2, logprobs=["old_logp"])
    batch = cut(rows, max_tokens=100, count=3)[-1]
    assert batch.rows == (NOT_A_ROW,)
    assert batch.old_logp_BT is not None
    assert batch.ref_logp_BT is None
    assert list(batch.split(batch.weights_BT)) == []
    logp_BT, _ = completion_logprobs(
        model,
        batch.input_ids_BT,
        batch.attention_mask_BT,
        batch.completion_mask_BT,
        temperature=1.0,
        chunk_tokens=8,
    )
    loss = PolicyLoss(clip_low=0.2, clip_high=0.3, aggregation=TokenMean())
    output = loss(
        logp_BT=logp_BT,
        old_logp_BT=batch.old_logp_BT,
        ref_logp_BT=None,
        advantages_B=batch.advantages_B,
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
    for batch in cut(rows, max_tokens=1000):
        with torch.no_grad():
            old_logp_BT, _ = completion_logprobs(
                model,
                batch.input_ids_BT,
                batch.attention_mask_BT,
                batch.completion_mask_BT,
                temperature=temperature,
                chunk_tokens=1000,
            )
        for index, values in batch.split(old_logp_BT):
            rows[index] = replace(rows[index], old_logp=values)
    loss = PolicyLoss(clip_low=1e-4, clip_high=1e-4, importance=importance, aggregation=TokenMean())
    _, metrics = step(model, rows, loss, max_tokens=30, temperature=temperature)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["ppo_kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["clip_ratio/low_mean"] == metrics["clip_ratio/high_mean"] == 0.0
