"""Rows that join a batch under way: the same completions, and a batch that stays full in the room it has."""

import pytest
import torch

from rzero.engines.embedded.cohorts import SAME_COHORT, Cohort, cohorts
from rzero.engines.embedded.fused import FusedSession
from rzero.types import Prompt, Sampling
from tests.rzero.engines.embedded_engine import FAMILIES, flat, make_engine, tokens

ENDS = list(range(240, 310))
"""So many eos tokens that random rows end at all lengths."""
MANY = [Prompt(user="7 + " * (index % 5) + str(index)) for index in range(13)]


@pytest.mark.parametrize("truncation", [{}, {"top_p": 0.8}, {"top_k": 5}, {"vocabulary_dropout": 0.2}])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_join_a_batch_are_drawn_as_if_they_had_begun_it(make_policy, family, truncation):
    policy = make_policy(family)
    policy.model.generation_config.eos_token_id = ENDS
    sampling = Sampling(n=3, max_tokens=40, seed=3, **truncation)
    side_by_side = make_engine(policy).generate(MANY, sampling)
    joining = make_engine(policy, max_rows=5, refill=True).generate(MANY, sampling)
    assert tokens(joining) == tokens(side_by_side)
    assert len({len(completion.token_ids) for completion in flat(joining)}) > 5
    for one, other in zip(flat(joining), flat(side_by_side), strict=True):
        assert one.text == other.text
        assert one.dropout == other.dropout
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def steps_of(policy, monkeypatch, **settings):
    """Returns how many rows were fed at each step, and what was drawn, one completion per prompt."""
    fed = []
    step = FusedSession.step

    def spy(self, token_B):
        fed.append(len(token_B))
        return step(self, token_B)

    monkeypatch.setattr(FusedSession, "step", spy)
    prompts = [Prompt(user=str(number)) for number in range(60)]
    groups = make_engine(policy, verify_sync=False, **settings).generate(prompts, Sampling(max_tokens=60, seed=3))
    return fed, flat(groups)


def test_waiting_rows_fill_a_batch(make_policy, monkeypatch):
    policy = make_policy("qwen3")
    policy.model.generation_config.eos_token_id = ENDS[:10]
    waiting, _ = steps_of(policy, monkeypatch, max_rows=8)
    joining, drawn = steps_of(policy, monkeypatch, max_rows=8, refill=True)
    assert max(joining) == 8
    assert len(joining) < 0.8 * len(waiting)
    total = sum(len(completion.token_ids) for completion in drawn)
    assert total / len(joining) > 0.8 * 8  # rows that were alive, on average


def test_a_batch_that_never_empties_needs_no_more_room_than_a_row(make_policy, monkeypatch):
    policy = make_policy("qwen3")
    policy.model.generation_config.eos_token_id = ENDS[:10]
    widest = []
    make_room = FusedSession._make_room

    def spy(self, *, rows):
        make_room(self, rows=rows)
        widest.append(self._columns)

    monkeypatch.setattr(FusedSession, "_make_room", spy)
    joining, drawn = steps_of(policy, monkeypatch, max_rows=8, refill=True)
    assert len(joining) > 2 * 60
    assert max(widest) <= 60 + 60 // 4
    assert max(len(completion.token_ids) for completion in drawn) == 60


def test_a_row_attends_to_few_columns_that_it_has_nothing_in(make_policy, monkeypatch):
    policy = make_policy("qwen3")
    policy.model.generation_config.eos_token_id = ENDS[:10]
    read, needed = [], []
    seen = FusedSession._seen

    def spy(self, window):
        result = seen(self, window)
        read.append(sum(len(self._start_R[own.rows_R]) * (own.columns.stop - own.columns.start) for own in result.own))
        needed.append(int((self._time + 1 - self._start_R).sum()))
        return result

    monkeypatch.setattr(FusedSession, "_seen", spy)
    steps_of(policy, monkeypatch, max_rows=8, refill=True)
    assert all(few <= many < few / (1 - SAME_COHORT) + 1 for many, few in zip(read, needed, strict=True))
    assert read != needed


def test_rows_are_cut_where_too_many_columns_would_be_empty():
    """Of 80 columns a row may miss ten; the next cohort begins at 20, and of its 60 a row may miss seven."""
    found = cohorts([0, 0, 10, 20, 27, 28], now=80, heads=2)
    assert found == [Cohort(slice(0, 6), 0, 10), Cohort(slice(6, 10), 20, 27), Cohort(slice(10, 12), 28, 28)]
    assert cohorts([0, 0], now=0, heads=1) == [Cohort(slice(0, 2), 0, 0)]


def test_attention_while_drawing_takes_its_factors_as_they_are(make_policy, monkeypatch):
    seen, attend = [], FusedSession._attend
    monkeypatch.setattr(
        FusedSession,
        "_attend",
        lambda *given: (seen.append(torch.get_float32_matmul_precision()), attend(*given))[1],
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        make_engine(make_policy("qwen3"), verify_sync=False).generate(MANY, Sampling(max_tokens=3))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


def test_a_prompt_with_more_rows_than_a_batch(make_policy):
    policy = make_policy("qwen3")
    policy.model.generation_config.eos_token_id = ENDS
    sampling = Sampling(n=11, max_tokens=20, seed=3)
    joining = make_engine(policy, max_rows=4, refill=True).generate(MANY[:2], sampling)
    assert tokens(joining) == tokens(make_engine(policy).generate(MANY[:2], sampling))


def test_a_decoder_that_takes_in_no_rows_lets_them_wait(make_policy):
    policy = make_policy("gpt2")
    policy.model.generation_config.eos_token_id = ENDS
    sampling = Sampling(n=3, max_tokens=20, seed=3)
    waiting = make_engine(policy, max_rows=5, refill=True).generate(MANY, sampling)
    assert tokens(waiting) == tokens(make_engine(policy).generate(MANY, sampling))
