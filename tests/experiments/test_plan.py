"""Plans: numbers worked out by hand, every experiment of the paper, and what to do when a run is too large."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from experiments import PROJECT
from experiments.compose import compose
from experiments.plan import main, plan, resolved
from experiments.planning import Architecture, Hardware, Rollouts, Setting, memory_of
from experiments.planning.work import decoding, evaluation, sync, uncounted, update
from experiments.resolvers import gpus

POLICIES = ("qwen3_4b_base", "qwen3_8b_base", "octothinker_3b", "octothinker_8b")
EXPERIMENTS = (
    *(f"experiment={preset} policy={policy}" for preset in ("paper", "official") for policy in POLICIES),
    "experiment=paper_lora_1gpu",
)
PUBLISHED = {"qwen3_4b_base": 4.02e9, "qwen3_8b_base": 8.19e9, "octothinker_3b": 3.21e9, "octothinker_8b": 8.03e9}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_of_the_paper_has_a_plan(experiment: str) -> None:
    figures = plan([*experiment.split(), "trainer.devices=8"])
    published = PUBLISHED[experiment.partition("policy=")[2] or "qwen3_4b_base"]
    assert figures["parameters"] == pytest.approx(published, rel=0.005)
    assert figures["devices"] == 8
    assert set(figures["phases"]) == {"challenger", "questions", "solver"}
    assert figures["fits"], figures["advice"]
    usable = figures["hardware"]["memory_gib"] * figures["hardware"]["usable_memory"] * 2**30
    for phase in figures["phases"].values():
        assert phase["memory"]["peak"] <= usable
        assert min(phase["tokens"], phase["flops"], phase["hours"], phase["memory"]["peak"]) > 0
    rounds, evaluated = figures["iterations"], figures["evaluation"]
    assert evaluated["not_counted"] == []
    assert figures["hours"] == pytest.approx(
        rounds * sum(phase["hours"] for phase in figures["phases"].values()) + (rounds + 1) * evaluated["hours"]
    )
    assert figures["room_for_vllm"] >= compose(*experiment.split()).engine.host.gpu_memory_utilization


@pytest.mark.parametrize(
    ("policy", "published"),
    [
        ("qwen2_5_coder_0_5b", 0.494e9),
        ("qwen2_5_0_5b_instruct", 0.494e9),
        ("qwen3_0_6b_base", 0.596e9),
        ("smollm2_360m_instruct", 0.362e9),
        ("llama3_2_1b_instruct", 1.236e9),
    ],
)
def test_small_models_from_the_hub_take_the_place_of_the_packaged_one(policy: str, published: float) -> None:
    """Published: parameters as their makers count them."""
    figures = plan(["experiment=qwen2_5_coder_0_5b", f"policy={policy}"])
    assert figures["parameters"] == pytest.approx(published, rel=0.01)
    assert figures["fits"]


def test_the_shape_of_a_local_model_is_read_from_its_config() -> None:
    path = PROJECT / "experiments" / "models" / "micro"
    shape = Architecture.of({"path_or_id": str(path)})
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    assert shape.parameters == matrices
    with pytest.raises(ValueError, match=r"nothing is known about the shape of some/model.*architecture"):
        Architecture.of({"path_or_id": "some/model"})


TINY = Architecture(
    hidden_size=10, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=5, intermediate_size=20,
    vocab_size=100, tie_word_embeddings=True,
)  # fmt: skip
EMBEDDED = Rollouts(engines=4, copies=2, weight_bytes=4, rows=8, response_tokens=50)
SETTING = Setting(
    devices=4, nodes=1, sharded=True, weight_bytes=4, mixed=False, tf32=False, lora=None, checkpointing=False,
    rollouts=EMBEDDED,
)  # fmt: skip
DEVICE = Hardware(
    name="x", peak_tflops=1.0, tf32_tflops=0.5, fp32_tflops=0.1, bandwidth_gb_s=1.0, memory_gib=1.0,
    training_utilisation=0.5, decoding_utilisation=0.5, token_step_ms=0.0, eager_token_step_ms=0.0, sync_gb_s=0.001,
    link_gb_s=1e9, network_gb_s=1e9, usable_memory=0.9, context_gib=0.01,
    prompt_tokens=10, response_fraction=0.5, questions={"asked": 7},
)  # fmt: skip


def tiny_memory(setting: Setting):  # type: ignore[no-untyped-def]
    return memory_of(TINY, setting, DEVICE, microbatch_tokens=64, chunk_tokens=16, needs_reference=True)


def test_parameters_and_memory_by_hand() -> None:
    layer = 10 * 10 + 2 * 10 * 5 + 10 * 10 + 3 * 10 * 20  # q, k and v, o, feed-forward
    assert TINY.layer_parameters == layer == 900
    assert TINY.parameters == 2 * layer + 1000
    memory = tiny_memory(SETTING)
    assert memory.gradients == 4 * 2800 / 4
    assert memory.optimiser == 8 * 2800 / 4
    assert memory.reference == 4 * 2800 / 4
    assert memory.engines == 2 * 4 * 2800
    assert memory.kv_cache == 8 * (10 + 50) * (2 * 2 * 1 * 5) * 4
    alone = tiny_memory(replace(SETTING, sharded=False))
    assert (alone.weights, alone.optimiser) == (4 * 2800, 8 * 2800)
    lora = tiny_memory(replace(SETTING, sharded=False, lora={"rank": 2, "target_modules": ["q_proj", "down_proj"]}))
    assert lora.reference == 4 * 2 * 2 * (10 + 10 + 20 + 10)  # a frozen copy of the adapters
    assert lora.optimiser == 8 * 2 * 2 * (10 + 10 + 20 + 10)
    named = tiny_memory(replace(SETTING, sharded=False, lora={"rank": 2, "target_modules": list(TINY.linears)}))
    assert tiny_memory(replace(SETTING, sharded=False, lora={"rank": 2, "target_modules": "all-linear"})) == named
    assert tiny_memory(replace(SETTING, checkpointing=True)).activations < memory.activations


def test_operations_by_hand() -> None:
    """2 per weight and token, 4 x heads x width x context for attention, the head where tokens are scored."""
    assert TINY.forward_flops(tokens=7, scored=3, context=5) == 2 * 1800 * 7 + 4 * 2 * 10 * 5 * 7 + 2 * 1000 * 3


def test_work_scales_as_it_should() -> None:
    device = DEVICE
    updated = functools.partial(update, TINY, SETTING, device, steps=1, microbatch_tokens=100)
    once = updated(completions=16, prompts=16, passes=0)
    twice = updated(completions=32, prompts=32, passes=0)
    assert twice.hours == pytest.approx(2 * once.hours)
    assert updated(completions=16, prompts=16, passes=3).flops == pytest.approx(2 * once.flops)
    shared = updated(completions=16, prompts=4, passes=0)
    assert once.tokens - shared.tokens == 12 * device.prompt_tokens
    assert shared.flops < once.flops
    assert once.hours * 3600 == pytest.approx(once.flops / 4 / 0.5e12)
    drawn = decoding(TINY, SETTING, device, completions=32)
    assert drawn.tokens == 32 * 25
    alone = replace(SETTING, rollouts=replace(EMBEDDED, engines=1))
    assert decoding(TINY, alone, device, completions=32).hours > 3 * drawn.hours
    rounded = replace(SETTING, rollouts=replace(EMBEDDED, weight_bytes=2))
    assert decoding(TINY, rounded, device, completions=32).hours == pytest.approx(drawn.hours / 2)


def test_rows_that_join_a_batch_save_steps() -> None:
    """Eight rows an engine, four side by side: twice 50 steps in waves; joining, 8 x 25 / 4 steps and a tail of 25."""
    device = replace(DEVICE, eager_token_step_ms=6.0)
    waves, joining = (
        decoding(TINY, replace(SETTING, rollouts=replace(EMBEDDED, rows=4, refill=refill)), device, completions=32)
        for refill in (False, True)
    )
    assert waves.hours == pytest.approx(100 * 0.006 / 3600)
    assert joining.hours == pytest.approx(75 * 0.006 / 3600)


def test_what_vllm_takes_of_a_device() -> None:
    """1 GiB x 0.25 less 2,800 weights of 2 bytes; a row of average length: 10 + 25 tokens x 20 numbers x 2 bytes."""
    vllm = replace(EMBEDDED, copies=1, weight_bytes=2, rows=10**9, vllm_share=0.25)
    assert vllm.weights(TINY) == 5600
    assert vllm.cache(TINY, DEVICE) == 2**28 - 5600
    assert vllm.side_by_side(TINY, DEVICE) == (2**28 - 5600) // (35 * 20 * 2)
    assert replace(vllm, rows=7).side_by_side(TINY, DEVICE) == 7
    assert replace(vllm, vllm_cache_gib=0.5).cache(TINY, DEVICE) == 2**29
    assert replace(vllm, copies=0).cache(TINY, DEVICE) == 0
    memory = tiny_memory(replace(SETTING, rollouts=vllm))
    assert memory.peak == memory.trainer + 5600 + memory.kv_cache + memory.contexts
    assert memory.standing > memory.kv_cache


def test_every_process_has_a_server_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-7ab5")
    assert gpus(3) == ["4", "5", "GPU-7ab5"]
    assert gpus(2) == ["4", "5"]
    with pytest.raises(ValueError, match="names 3 devices for 4 processes"):
        gpus(4)


def test_a_plan_does_not_depend_on_the_devices_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plan(["experiment=paper"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert plan(["experiment=paper"]) == expected


def test_where_vllm_runs_is_read_from_the_configuration() -> None:
    def rollouts(*overrides: str) -> Rollouts:
        return Setting.of(resolved(compose("experiment=paper", *overrides))).rollouts

    beside = rollouts()
    assert (beside.engines, beside.copies, beside.weight_bytes) == (8, 1, 2)
    assert rollouts("trainer.devices=4").engines == 4
    elsewhere = rollouts("trainer.devices=4", "engine.host.replicas=2", "engine.host.devices=['4','5']")
    assert (elsewhere.engines, elsewhere.copies) == (2, 0)
    split = rollouts("engine.host.replicas=2", "engine.host.devices=['0,1','2,3']", "engine.host.arguments=[-tp,2]")
    assert (split.engines, split.devices_each, split.copies) == (2, 2, 1)
    flag = "engine.host.arguments=['--tensor-parallel-size=8']"
    urls = rollouts("engine.host.urls=[http://one:8000,http://two:8000,http://three:8000]", flag)
    assert (urls.engines, urls.devices_each, urls.copies) == (3, 8, 0)
    assert rollouts("engine=embedded").copies == 2


def test_what_does_not_fit_is_said_with_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    embedded = ["experiment=paper", "engine=embedded"]
    assert main(embedded) == 1
    text = capsys.readouterr().out
    assert "DOES NOT FIT (79 GiB per device)" in text
    assert "engine.max_rows=" in text
    rows = text.partition("engine.max_rows=")[2].split()[0]
    assert main([*embedded, f"engine.max_rows={rows}"]) == 0
    assert "DOES NOT FIT" not in capsys.readouterr().out
    whole = plan(["experiment=paper", "policy=qwen3_8b_base", "trainer=ddp"])
    assert "trainer=fsdp" in whole["advice"][0]
    assert "engine.host.gpu_memory_utilization below 0.38" in whole["advice"][0]
    assert not whole["fits"]
    small = plan(["experiment=paper", "policy=qwen3_8b_base", "engine.host.gpu_memory_utilization=0.15"])
    assert "a larger engine.host.gpu_memory_utilization" in small["advice"][0]
    assert "engine.dtype=bfloat16" in plan(["experiment=paper", "policy=qwen3_8b_base", "engine=embedded"])["advice"][0]


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        (["trainer=gpu", "engine=vllm_gpu"], "trainer=fsdp"),
        (["policy=qwen3_8b_base", "trainer.devices=8", "hardware=a100_40gb"], "more devices than trainer.devices=8"),
    ],
)
def test_what_is_too_large_for_the_devices_is_refused(
    overrides: list[str], change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All weights of 4B on one GPU; 8B on eight of 40 GB."""
    assert main(["experiment=paper", *overrides]) == 1
    text = capsys.readouterr().out
    assert "DOES NOT FIT" in text
    assert change in text
    assert "a *_lora policy" in text


def test_a_call_lasts_as_long_as_its_longest_response() -> None:
    """vLLM with room for all rows: 50 token steps of at least 6 ms, 12 ms without CUDA graphs, for 1 row or for 4."""
    vllm = replace(EMBEDDED, copies=1, weight_bytes=2, rows=10**9, vllm_share=0.25, eager=False)
    device = replace(DEVICE, token_step_ms=6.0, eager_token_step_ms=12.0)
    setting = replace(SETTING, rollouts=vllm)
    one, four = (decoding(TINY, setting, device, completions=count).hours for count in (1, 4))
    assert one == pytest.approx(50 * 0.006 / 3600, rel=0.02)
    assert four == one
    eager = replace(SETTING, rollouts=replace(vllm, eager=True))
    assert decoding(TINY, eager, device, completions=4).hours == pytest.approx(2 * four)


def test_hours_of_syncs_and_evaluation_by_hand() -> None:
    """2,800 weights of 2 bytes in the engine at 1 MB/s; 7 questions, 4 completions a call: 2 greedy calls, 4 others."""
    vllm = replace(EMBEDDED, copies=1, weight_bytes=2, rows=10**9, vllm_share=0.25, eager=False)
    setting, device = replace(SETTING, rollouts=vllm), replace(DEVICE, token_step_ms=6.0)
    assert sync(TINY, setting, device).hours == pytest.approx(2800 * 2 / 1e6 / 3600)
    assert sync(TINY, SETTING, device).hours == 0  # the embedded engine
    suite = {
        "tasks": ["asked", "other"], "definitions": {"asked": {"max_tokens": 100}, "other": {}},
        "protocol": {"max_tokens": None, "k": 2, "sampled": ["asked"]}, "completions_per_call": 4,
    }  # fmt: skip
    calls = 2 + 4
    expected = sync(TINY, setting, device).hours + calls * 100 * 0.006 / 3600
    assert evaluation(suite, TINY, setting, device).hours == pytest.approx(expected, rel=0.02)
    assert uncounted(suite, device) == ["other"]
    longer = {**suite, "completions_per_call": 1000}
    assert evaluation(longer, TINY, setting, device).hours < evaluation(suite, TINY, setting, device).hours / 2


def test_a_float32_head_is_as_fast_as_float32_products() -> None:
    """Body at 1 Tflop/s, head at 0.1, with TF32 at 0.5; all bf16 where the weights are."""
    mixed = replace(SETTING, mixed=True)
    hours = {
        name: update(
            TINY, setting, DEVICE, completions=4, prompts=4, passes=0, steps=1, microbatch_tokens=100
        ).hours
        for name, setting in {
            "fp32": mixed, "tf32": replace(mixed, tf32=True), "bf16": replace(mixed, weight_bytes=2),
        }.items()
    }  # fmt: skip
    head = 3 * 2 * 1000 * 4 * 25 / 4 / 0.5e12 / 3600
    assert hours["fp32"] - hours["bf16"] == pytest.approx(9 * head)
    assert hours["tf32"] - hours["bf16"] == pytest.approx(head)


def test_nodes_count() -> None:
    cfg = resolved(compose("experiment=paper"))
    one = Setting.of(cfg)
    cfg["trainer"]["num_nodes"] = 2
    two = Setting.of(cfg)
    assert (one.devices, two.devices) == (8, 16)
    assert (one.rollouts.engines, two.rollouts.engines) == (8, 8)  # a run starts servers on its first node
    embedded = [
        Setting.of(resolved(compose("experiment=paper", "engine=embedded", f"trainer.num_nodes={n}"))) for n in (1, 2)
    ]
    assert [setting.rollouts.engines for setting in embedded] == [8, 16]


def test_a_step_ends_when_the_device_with_most_rows_does() -> None:
    """5 rows over 4 devices take as long as 8; 4 steps of 2 rows on 4 devices take as long as 4 of 4."""
    updated = functools.partial(update, TINY, SETTING, DEVICE, passes=0, microbatch_tokens=10**9)
    hours = {count: updated(completions=count, prompts=count, steps=1).hours for count in (4, 5, 8)}
    assert hours[5] == pytest.approx(hours[8]) == pytest.approx(2 * hours[4])
    idle = updated(completions=8, prompts=8, steps=4).hours
    assert idle == pytest.approx(updated(completions=16, prompts=16, steps=4).hours)


def test_gathering_weights_by_hand() -> None:
    """On a slow network 2 optimiser steps of 2 micro-batches move 2,800 weights 3 times and their gradients once."""
    slow = replace(DEVICE, link_gb_s=1e-6, network_gb_s=1e-7)
    setting = replace(SETTING, nodes=2)
    updated = functools.partial(update, TINY, completions=16, prompts=16, passes=1, steps=2, microbatch_tokens=40)
    moved = 2 * 2 * (3 + 1) * 2800 * 4
    assert updated(setting, slow).hours == pytest.approx(moved / 100 / 3600)
    assert updated(SETTING, slow).hours == pytest.approx(moved / 1000 / 3600)
    assert updated(replace(SETTING, sharded=False), slow).hours == updated(SETTING, DEVICE).hours


def test_servers_over_several_devices_by_hand() -> None:
    """Half of 2,800 weights of 2 bytes on each; twice the cache and twice the speed of one."""
    one = replace(EMBEDDED, engines=1, copies=1, weight_bytes=2, rows=10**9, vllm_share=0.25, eager=False)
    two = replace(one, devices_each=2)
    assert two.weights(TINY) == 2800
    assert two.cache(TINY, DEVICE) == 2**28 - 2800
    assert two.side_by_side(TINY, DEVICE) == 2 * (2**28 - 2800) // (35 * 20 * 2)
    hours = [
        decoding(TINY, replace(SETTING, rollouts=rollouts), DEVICE, completions=8).hours for rollouts in (one, two)
    ]
    assert hours[0] == pytest.approx(2 * hours[1])


def test_what_does_not_fit_has_no_hours() -> None:
    figures = plan(["experiment=paper", "policy=qwen3_8b_base", "trainer=ddp"])
    assert figures["hours"] is figures["device_hours"] is figures["evaluation"]["hours"] is None
    assert figures["phases"]["solver"]["hours"] is None
    assert figures["phases"]["questions"]["hours"] > 0


def test_gpu_presets_are_set_for_speed() -> None:
    """CUDA graphs, a benchmark in one call, TF32 for the head, a context as long as it has to be; none on CPUs."""
    for preset in ("experiment=paper", "experiment=official", "experiment=paper_lora_1gpu"):
        cfg = compose(preset)
        assert cfg.engine.host.enforce_eager is False
        assert cfg.matmul_precision == "high"
        longest = max(definition.max_tokens for definition in cfg.benchmarks.definitions.values())
        assert longest < cfg.engine.max_model_len < 32768
        assert cfg.benchmarks.completions_per_call >= max(compose_hardware().questions.values())
    cpu = compose("engine=vllm")
    assert (cpu.engine.host.enforce_eager, cpu.matmul_precision) == (True, "highest")
    assert cpu.benchmarks.completions_per_call == 1024


def compose_hardware() -> Hardware:
    return Hardware(**plan(["experiment=paper"])["hardware"])


def test_json_other_hardware_and_wrong_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=paper", "hardware=a100", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["hardware"]["name"] == "A100 80 GB"
    assert main(["experiment=papers"]) == 2
    assert "papers" in capsys.readouterr().err
