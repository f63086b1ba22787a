"""A phase of training as a whole, on a tiny model: what is learned from, what is left out, what is reported."""

from __future__ import annotations

import functools
import math
import warnings

import pytest
import torch

from rzero.adapters import adapter_weights
from rzero.grpo import positive_advantages
from rzero.modules import OverlongPenalty, Refill
from rzero.modules.batching import Row
from rzero.modules.fit import fit
from rzero.modules.reference import AdaptersOff, FrozenAdapters, FrozenCopy, reference_of
from rzero.modules.update import Update
from rzero.processes.ranks import Ranks
from rzero.types import Completion, Group, Prompt, RewardBreakdown
from tests.rzero.processes.two_processes import (
    load,
    make_loss,
    make_module,
    make_trainer,
    pay_solver,
    question,
    settings,
)

SGD = functools.partial(torch.optim.SGD, lr=0.1)
ids = torch.arange(12)[None]


def train(module, tmp_path):
    """The metrics of every step, without the role's name."""
    steps = []

    def after_step(metrics):
        steps.append({name.removeprefix(f"{module.stage}/"): value for name, value in metrics.items()})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, make_trainer=make_trainer, after_step=after_step, directory=tmp_path)
    return steps


def make(policy, role="solver", **changes):
    return make_module(policy, role=role, ranks=Ranks(), **{"optimizer": SGD, **changes})


def test_metrics_have_the_names_of_the_field(make_policy, tmp_path):
    first, second = train(make(make_policy("qwen3")), tmp_path)
    assert {
        "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio",
        "completions/mean_terminated_length", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean",
        "kl", "entropy", "grad_norm", "loss", "learning_rate", "num_tokens", "num_tokens_learned", "skipped_steps",
        "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max",
        "timing_s/rollout", "timing_s/reward", "timing_s/update", "timing_s/step",
        "perf/tokens_per_second", "perf/update_tflops",
    } <= first.keys()  # fmt: skip
    assert first.keys() == second.keys()
    assert second["kl"] > 0
    assert 0 < first["sampling/sampling_logp_difference/mean"] <= first["sampling/sampling_logp_difference/max"] < 1e-4


@pytest.mark.parametrize(("family", "temperature"), [("qwen3", 0.9), ("qwen3", 0.5), ("gpt2", 0.9)])
def test_the_first_step_is_on_policy_and_without_learning_the_mismatch_stays_flat(
    make_policy, tmp_path, family, temperature
):
    """Engine, trainer and reference agree at any temperature (trl#3029), and of a model with dropout (trl#3234)."""
    frozen = functools.partial(torch.optim.SGD, lr=0.0)
    sampling = {"temperature": temperature, "max_tokens": 12}
    module = make(make_policy(family), optimizer=frozen, settings=settings(sampling=sampling))
    for step in train(module, tmp_path):
        assert step["ratio"] == pytest.approx(1.0, abs=1e-5)
        assert step["kl"] == pytest.approx(0.0, abs=1e-8)
        assert step["clip_ratio/region_mean"] == 0
        assert step["sampling/sampling_logp_difference/max"] < 1e-4


@pytest.mark.parametrize("share", [False, True])
def test_tokens_that_are_dropped_are_dropped_for_engine_trainer_and_reference(make_policy, tmp_path, share):
    """On a random model of two layers: the same log-probs at first, finite updates, a KL that stays small."""
    policy = make_policy("qwen3", num_hidden_layers=2)
    sampling = {"temperature": 0.9, "max_tokens": 12, "vocabulary_dropout": 0.5}
    changes = settings(sampling=sampling, share_prompts=share, updates_per_rollout=1)
    before = policy.weights_hash()
    first, second = train(make(policy, role="challenger", settings=changes), tmp_path)
    assert max(step["sampling/sampling_logp_difference/max"] for step in (first, second)) < 1e-4
    assert first["kl"] == pytest.approx(0.0, abs=1e-8)
    assert 0 < second["kl"] < 1
    assert (first["skipped_steps"], policy.weights_hash() != before) == (0, True)
    whole, _ = train(make(make_policy("qwen3", num_hidden_layers=2), role="challenger"), tmp_path)
    assert whole["entropy"] > first["entropy"] > 0


@pytest.mark.parametrize("role", ["solver", "challenger"])
def test_how_a_step_is_cut_changes_nothing(make_policy, tmp_path, role):
    """Whatever the budget, and whether completions share their prompt; all of the Challenger's have the same one."""
    trained = []
    for budget, share in ((45, False), (90, False), (100_000, False), (45, True), (100_000, True)):
        policy = make_policy("qwen3")
        changes = settings(max_tokens_per_microbatch=budget, share_prompts=share)
        steps = train(make(policy, role, settings=changes), tmp_path)
        trained.append((steps, policy.model.state_dict()))
    for steps, weights in trained[1:]:
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, trained[0][1][name], atol=1e-5, rtol=0)
        for step, first in zip(steps, trained[0][0], strict=True):
            assert step["kl"] == pytest.approx(first["kl"], rel=1e-3, abs=1e-7)
            assert step["entropy"] == pytest.approx(first["entropy"], rel=1e-5)


def test_each_part_of_a_step_is_told_and_counted(make_policy, tmp_path):
    parts: dict[str, list[tuple[int, ...]]] = {}
    watch = lambda what: lambda *told: parts.setdefault(what, []).append(told)  # noqa: E731
    train(make(make_policy("qwen3"), settings=settings(max_tokens_per_microbatch=80), watch=watch), tmp_path)
    assert list(parts) == [
        "drawing, responses", "scoring as they were drawn, micro-batches", "scoring by the reference, micro-batches",
        "learning, micro-batches",
    ]  # fmt: skip
    for told in parts.values():
        done, total, tokens = told[-1]
        assert done == total > 1
        assert tokens > 0


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(make_policy, tmp_path):
    policy = make_policy("qwen3")
    before = policy.weights_hash()
    policy.model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)
    for step in train(make(policy), tmp_path):
        assert step["skipped_steps"] == 1.0
        assert step["grad_norm"] == 0.0
    assert policy.weights_hash() == before


def test_a_reward_that_is_not_finite_teaches_nothing(make_policy, tmp_path):
    policy = make_policy("qwen3")
    before = policy.weights_hash()

    def broken(groups, labels):
        return [[RewardBreakdown(total=math.nan) for _ in group] for group in groups]

    first, _ = train(make(policy, reward=broken, loss=make_loss(kl_coefficient=0.0)), tmp_path)
    assert first["non_finite_rewards"] == 9
    assert first["skipped_steps"] == 0
    assert policy.weights_hash() == before


def test_truncated_completions_can_be_left_out(make_policy, tmp_path):
    """The tiny model practically never stops by itself, so nothing is left to learn from."""
    kept, masked = make_policy("qwen3"), make_policy("qwen3")
    before = kept.weights_hash()
    train(make(kept, loss=make_loss(truncated="keep")), tmp_path)
    first, _ = train(make(masked, loss=make_loss(truncated="mask")), tmp_path)
    assert first["completions/clipped_ratio"] == 1.0
    assert first["grad_norm"] == 0.0
    assert kept.weights_hash() != before
    assert masked.weights_hash() == before


@pytest.mark.parametrize("budget", [9, 70])
def test_kl_in_the_reward_lowers_it_by_the_summed_estimate(make_policy, budget):
    """Per completion coefficient x sum of k1 under the old policy; the loss itself then has no KL term."""
    policy, other = make_policy("qwen3"), make_policy("qwen3", seed=1)
    loss = make_loss(kl_placement="reward", kl_estimator="k1", kl_coefficient=0.3)
    rows = [
        Row(
            index=index, group=index, prompt_ids=(5, 6), completion_ids=tuple(range(9, 9 + length)),
            engine_logp=torch.zeros(length), counted=length != 3,
        )
        for index, length in enumerate((3, 7, 4))
    ]  # fmt: skip
    update = Update(
        model=policy.model, reference=FrozenCopy(model=other.model), wrapper=None, optimizer=None, backward=None,
        settings=settings(max_tokens_per_microbatch=budget), loss=loss, ranks=Ranks(), pad_id=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    penalty_N = update.kl_penalty(update.score(update.cut(rows), old=True), rows=3)
    for row, penalty in zip(rows, penalty_N.tolist(), strict=True):
        sequence = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        with torch.no_grad():
            own, reference = (
                (model(input_ids=sequence).logits / 0.9)
                .log_softmax(-1)[0, 1:-1]
                .gather(1, sequence[0, 2:, None])
                .sum()
                .item()
                for model in (policy.model, other.model)
            )
        assert penalty == pytest.approx(0.3 * (own - reference), rel=1e-4)


def test_kl_in_the_reward_steers_training(make_policy, tmp_path):
    free, held = make_policy("qwen3"), make_policy("qwen3")
    train(make(free, loss=make_loss(kl_placement="reward", kl_coefficient=1e-9)), tmp_path)
    steps = train(make(held, loss=make_loss(kl_placement="reward", kl_coefficient=5.0)), tmp_path)
    assert steps[1]["kl"] > 0
    assert free.weights_hash() != held.weights_hash()


def test_groups_that_teach_nothing_are_replaced_within_the_bound(make_policy, tmp_path):
    def odd_only(groups, labels):
        equal = RewardBreakdown(total=1.0)
        return [
            paid if int(label) % 2 else [equal] * len(paid)
            for paid, label in zip(pay_solver(groups, labels), labels, strict=True)
        ]

    plain, _ = train(make(make_policy("qwen3"), reward=odd_only), tmp_path)
    assert plain["frac_reward_zero_std"] == pytest.approx(2 / 3)  # questions 0 and 2 of 0, 1, 2
    refill = Refill(tolerance=1e-9, max_rounds=2)
    module = make(make_policy("qwen3"), reward=odd_only, settings=settings(refill=refill))
    calls = []
    generate = module.engine.generate
    module.engine.generate = lambda prompts, sampling, progress: (
        calls.append((len(prompts), sampling.seed)) or generate(prompts, sampling)
    )
    refilled, _ = train(module, tmp_path)
    assert refilled["refill/replaced_groups"] == 2.0  # by questions 3 and 5 of the other step
    assert refilled["frac_reward_zero_std"] == 0
    assert len({seed for _, seed in calls}) == len(calls), "every extra rollout has random numbers of its own"
    assert all(prompts <= 3 for prompts, _ in calls)
    assert len(calls) <= 2 * (1 + refill.max_rounds)


def test_no_question_is_asked_twice_in_a_step(make_policy, tmp_path):
    """Not in the second extra rollout either, after the first one has replaced some of the groups."""

    def high_only(groups, labels):
        equal = RewardBreakdown(total=1.0)
        return [
            paid if int(label) > 4 else [equal] * len(paid)
            for paid, label in zip(pay_solver(groups, labels), labels, strict=True)
        ]

    batches = [[question(3 * step + item) for item in range(3)] for step in range(3)]
    refill = Refill(tolerance=1e-9, max_rounds=3)
    module = make(make_policy("qwen3"), reward=high_only, settings=settings(refill=refill), batches=batches)
    asked = []
    prompts = module.prompts
    module.prompts = lambda batch: asked[-1].extend(item.index for item in batch) or prompts(batch)
    training_step = module.training_step
    module.training_step = lambda *step: asked.append([]) or training_step(*step)
    steps = train(module, tmp_path)
    assert steps[0]["refill/replaced_groups"] == 3, "questions 5 to 8 do teach"
    assert max(map(len, asked)) > 6, "more than one extra rollout was needed"
    assert all(len(set(questions)) == len(questions) for questions in asked)


def test_the_challenger_asks_its_request_again_to_refill(make_policy, tmp_path):
    module = make(
        make_policy("qwen3"), role="challenger",
        reward=lambda questions, votes: [RewardBreakdown(total=0.0) for _ in questions],
        settings=settings(refill=Refill(tolerance=0.0, max_rounds=2)),
    )  # fmt: skip
    for step in train(module, tmp_path):
        assert step["refill/replaced_groups"] == 0
        assert step["frac_reward_zero_std"] == 1


def test_wrong_refills_are_refused():
    with pytest.raises(ValueError, match=r"max_rounds >= 1, got 0\.0 and 0"):
        Refill(tolerance=0.0, max_rounds=0)


def test_the_penalty_for_length_is_added_and_named():
    def completion(length):
        return Completion(text="", token_ids=(1,) * length, logprobs=(0.0,) * length, finish_reason="stop")

    group = Group(prompt=Prompt(user="x"), prompt_ids=(1,), completions=tuple(completion(n) for n in (60, 90, 100)))
    rewards = [[RewardBreakdown(total=1.0, parts={"correct": 1.0}) for _ in range(3)]]
    [paid] = OverlongPenalty(buffer_share=0.2, factor=0.5)([group], rewards, max_tokens=100)
    assert [reward.total for reward in paid] == pytest.approx([1.0, 0.75, 0.5])
    assert paid[1].parts == {"correct": 1.0, "overlong": -0.25}


def test_a_penalty_for_length_needs_a_limit_that_it_fits():
    assert OverlongPenalty(buffer_share=0.2).buffer_tokens(4096) == 819
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], got 1\.5"):
        OverlongPenalty(buffer_share=1.5)
    with pytest.raises(ValueError, match="less than one token"):
        OverlongPenalty(buffer_share=0.2).buffer_tokens(2)


@pytest.mark.parametrize("share", [False, True])
def test_completions_without_an_advantage_may_be_left_out(make_policy, tmp_path, share):
    """The same steps, up to rounding, from fewer tokens."""
    trained = []
    for skip in (False, True):
        policy = make_policy("qwen3")
        changes = settings(skip_zero_advantages=skip, advantage=positive_advantages, share_prompts=share)
        steps = train(make(policy, loss=make_loss(kl_coefficient=0.0), settings=changes), tmp_path)
        trained.append((steps, policy.model.state_dict()))
    (every, one), (fewer, other) = trained
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=0)
    for before, after in zip(every, fewer, strict=True):
        assert before["num_tokens_learned"] == before["num_tokens"] == after["num_tokens"]
        assert 0 < after["num_tokens_learned"] < after["num_tokens"]
        assert after["reward"] == before["reward"]


def test_where_no_completion_has_an_advantage_nothing_is_learned(make_policy, tmp_path):
    policy = make_policy("qwen3")
    before = policy.weights_hash()
    changes = settings(skip_zero_advantages=True, advantage=lambda rewards_N, group_N: torch.zeros_like(rewards_N))
    steps = train(make(policy, loss=make_loss(kl_coefficient=0.0), settings=changes), tmp_path)
    assert [step["num_tokens_learned"] for step in steps] == [0.0, 0.0]
    assert [step["grad_norm"] for step in steps] == [0.0, 0.0]
    assert policy.weights_hash() == before


def test_a_loss_with_kl_learns_from_every_completion_and_leaves_none_out(make_policy):
    with pytest.raises(ValueError, match="skip_zero_advantages needs"):
        make(make_policy("qwen3"), loss=make_loss(kl_coefficient=0.1), settings=settings(skip_zero_advantages=True))


def test_an_entropy_that_costs_falls_and_one_that_is_paid_for_rises(make_policy, tmp_path):
    """The second of two steps sees what the first has done. All advantages are 0: nothing else is learned."""
    seen = {}
    for coefficient in (-1.0, 0.0, 1.0):
        loss = make_loss(kl_coefficient=0.0, entropy_coefficient=coefficient)
        changes = settings(advantage=lambda rewards_N, group_N: torch.zeros_like(rewards_N), updates_per_rollout=1)
        _, second = train(make(make_policy("qwen3"), optimizer=SGD, loss=loss, settings=changes), tmp_path)
        seen[coefficient] = second["entropy"]
    assert seen[-1.0] < seen[0.0] < seen[1.0]


def test_an_entropy_term_moves_the_entropy_of_what_is_learned_from_alone(make_policy, tmp_path):
    """Where no completion has an advantage, none is, whatever the coefficient."""
    policy = make_policy("qwen3")
    before = policy.weights_hash()
    changes = settings(skip_zero_advantages=True, advantage=lambda rewards_N, group_N: torch.zeros_like(rewards_N))
    loss = make_loss(kl_coefficient=0.0, entropy_coefficient=-1.0)
    train(make(policy, loss=loss, settings=changes), tmp_path)
    assert policy.weights_hash() == before


def test_a_module_takes_its_steps_at_that_rate(make_policy, tmp_path):
    """Two rollouts of one update each; a warm-up of one step is none."""
    rates, weights = {}, {}
    for warmup in (0, 1, 4):
        policy = make_policy("qwen3")
        module = make(
            policy,
            optimizer=SGD,
            settings=settings(warmup_steps=warmup, updates_per_rollout=1),
        )
        rates[warmup] = [step["learning_rate"] for step in train(module, tmp_path)]
        weights[warmup] = policy.weights_hash()
    assert rates[4] == pytest.approx([0.025, 0.05])
    assert rates[0] == rates[1] == pytest.approx([0.1, 0.1])
    assert weights[0] == weights[1] != weights[4]


def test_less_than_no_step_is_refused():
    with pytest.raises(ValueError, match="warmup_steps must be 0"):
        settings(warmup_steps=-1)


def test_the_reference_of_adapters_is_the_start_and_no_second_model(make_policy, tmp_path, monkeypatch):
    make_policy("qwen3").save(tmp_path / "base")
    start = load(tmp_path / "base", tuning="full")
    policy = load(tmp_path / "base", tuning="lora")
    monkeypatch.setattr("copy.deepcopy", lambda *_: pytest.fail("a second model was made"))
    reference = reference_of(policy)
    monkeypatch.undo()
    assert isinstance(reference, AdaptersOff)
    train(make(policy, reference=reference), tmp_path)
    with torch.no_grad():
        expected = start.model.eval()(input_ids=ids).logits
        with reference.active() as model:
            torch.testing.assert_close(model.eval()(input_ids=ids).logits, expected)
        moved = policy.model(input_ids=ids).logits
    assert float((moved - expected).abs().max()) > 1e-4
    trainable = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_the_reference_of_a_second_round_is_where_the_first_one_ended(make_policy, tmp_path):
    """Not the base that the adapters were first put on (trl#3194)."""
    make_policy("qwen3").save(tmp_path / "base")
    first = load(tmp_path / "base", tuning="lora")
    train(make(first, reference=reference_of(first)), tmp_path)
    first.save(tmp_path / "first")
    second = load(tmp_path / "base", tuning="lora", adapter=tmp_path / "first")
    before, drawn = {id(p) for p in second.model.parameters()}, torch.get_rng_state()
    reference = reference_of(second)
    assert isinstance(reference, FrozenAdapters)
    assert torch.equal(torch.get_rng_state(), drawn)
    added = [name for name, p in second.model.named_parameters() if id(p) not in before]
    assert len(added) == len(adapter_weights(second.model)), "adapters, no second model"
    assert all(".reference." in name for name in added)
    trained = {name for name, p in second.model.named_parameters() if p.requires_grad}
    assert len(trained) == len(adapter_weights(second.model)), "the frozen adapters are not trained"
    step, after = train(make(second, reference=reference, settings=settings(updates_per_rollout=1)), tmp_path)
    assert step["kl"] == pytest.approx(0.0, abs=1e-8)
    assert after["kl"] > 1e-6
    with torch.no_grad():
        start = load(tmp_path / "base", tuning="full").model.eval()(input_ids=ids).logits
        ended = first.model.eval()(input_ids=ids).logits
        with reference.active() as model:
            torch.testing.assert_close(model.eval()(input_ids=ids).logits, ended, rtol=0, atol=0)
        moved = second.model.eval()(input_ids=ids).logits
    assert float((ended - start).abs().max()) > 1e-4, "the first round has moved the weights"
    assert float((moved - ended).abs().max()) > 1e-4, "and the second, which is asked again outside the reference"
    assert trained == {name for name, p in second.model.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match="has a reference in it already"):
        reference_of(second)


def test_the_reference_of_all_weights_is_a_frozen_copy(make_policy, tmp_path):
    policy = make_policy("qwen3")
    before = policy.model.eval()(input_ids=ids).logits.detach()
    module = make(policy)
    train(module, tmp_path)
    with torch.no_grad(), module.reference.active() as model:
        torch.testing.assert_close(model(input_ids=ids).logits, before)
        assert float((policy.model(input_ids=ids).logits - before).abs().max()) > 1e-4


def test_without_kl_no_reference_is_needed(make_policy):
    assert make(make_policy("qwen3"), loss=make_loss(kl_coefficient=0.0)).reference is None
    with pytest.raises(ValueError, match="needs a reference"):
        make(make_policy("qwen3"), reference=None)
