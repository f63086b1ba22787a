"""vLLM's own transfer of weights: what servers are told, word for word, and updates that break in the middle."""

from __future__ import annotations

import base64
import contextlib
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from rzero.engines.vllm import VllmEngine
from rzero.engines.vllm.requests import RowRequest
from rzero.engines.vllm.retry import EngineDied
from rzero.engines.vllm.servers import VllmServers
from rzero.engines.vllm.snapshot import architecture
from rzero.engines.vllm.transfer import MIB, OverIpc, OverNccl, ThroughFiles
from rzero.types import Prompt, Sampling
from tests.rzero.engines.scripted_server import Scripted, serving
from tests.rzero.engines.shared_memory import SharedMemory
from tests.rzero.engines.test_vllm_server import SETTINGS

IPC = OverIpc(allow_pickled_handles=True, buffer_mib=1)
NCCL = OverNccl(address="10.0.0.7", buffer_mib=64)


def start(urls: list[str], transfer: Any, **more: Any) -> Any:
    settings = VllmServers(**{**SETTINGS, "urls": urls, "replicas": len(urls), "transfer": transfer, **more})
    return settings.start(max_rows=4, max_tokens=None)


def told(script: Scripted) -> list[tuple[str, Any]]:
    """What a server was told while it was given weights."""
    return [(path, body) for path, body in script.asked if "weight" in path and path != "/weight_checker"]


def metadata(policy: Any) -> dict[str, Any]:
    """Names, dtypes and shapes of the policy's weights, in the order in which they are sent."""
    tensors = {"model.embed_tokens.weight": None, "lm_head.weight": None} | policy.model.state_dict()
    return {
        "names": list(tensors),
        "dtype_names": ["bfloat16"] * len(tensors),
        "shapes": [list(policy.model.state_dict()[name].shape) for name in tensors],
    }


def test_ipc_has_to_be_allowed_on_purpose_and_needs_one_gpu_a_server():
    with pytest.raises(ValueError, match=r"runs code of whoever.*allow_pickled_handles=true"):
        OverIpc(allow_pickled_handles=False, buffer_mib=1)
    for devices in ([], ["0", "1,2"]):
        with pytest.raises(ValueError, match=r"engine\.host\.devices with one number for each server"):
            start(["http://a", "http://b"], IPC, devices=devices)


def test_servers_of_ours_are_started_for_the_transfer(make_policy):
    shape = architecture(make_policy("qwen3"))
    for transfer, backend in ((NCCL, "nccl"), (IPC, "ipc")):
        settings = VllmServers(**{**SETTINGS, "transfer": transfer})
        text = " ".join(settings.serve_arguments(shape, max_rows=9, max_tokens=None))
        assert f'--weight-transfer-config {{"backend": "{backend}"}} --load-format dummy' in text
        assert hash(settings) != hash(VllmServers(**SETTINGS))
    assert IPC.environment == {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    assert NCCL.environment == ThroughFiles().environment == {}


@pytest.mark.vllm
def test_what_servers_are_told_over_nccl(make_policy, monkeypatch):
    """Two servers of two workers: rank 0 is the trainer, 1 and 2 are the first server's, 3 and 4 the second's."""
    from vllm.distributed.weight_transfer import nccl_engine

    endpoint: list[Any] = []
    sent: list[str] = []

    def broadcast(*, iterator: Any, buffer_size_bytes: int, **_: Any) -> None:
        assert buffer_size_bytes == 64 * MIB
        sent.extend(name for name, _ in iterator)

    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: endpoint.append(info) or object())
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", broadcast)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    policy = make_policy("qwen3_tied")
    with serving() as (one, first), serving() as (two, second):
        host = start([one, two], NCCL)
        snapshots = [host.take(policy, dtype=torch.bfloat16) for _ in range(2)]
        assert {path.name for path in snapshots[0].directory.iterdir()} == {"config.json"}
        for snapshot in snapshots:
            host.load(snapshot)
        [about] = endpoint
        assert (about.master_address, about.world_size, about.rank) == ("10.0.0.7", 5, 0)
        round_trip = [
            ("/start_weight_update", {}),
            ("/update_weights", {"update_info": metadata(policy)}),
            ("/finish_weight_update", {}),
        ]
        for script, offset in ((first, 1), (second, 3)):
            joined = {
                "master_address": "10.0.0.7", "master_port": about.master_port, "rank_offset": offset, "world_size": 5,
                "packed": True, "packed_buffer_size_bytes": 64 * MIB, "packed_num_buffers": 2,
            }  # fmt: skip
            nccl_engine.NCCLWeightTransferInitInfo(**joined)
            assert told(script) == [("/init_weight_transfer_engine", {"init_info": joined}), *round_trip, *round_trip]
        assert sent == metadata(policy)["names"] * 2
        host.shut_down()


@pytest.mark.vllm
def test_what_servers_are_told_over_ipc(make_policy, monkeypatch):
    """vLLM's own packing, with the CPU's memory for the GPU's."""
    from vllm.distributed.weight_transfer import packed_tensor
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo

    empty, handle = torch.empty, ("rebuild", 7)
    monkeypatch.setattr(torch, "empty", lambda *sizes, device=None, **more: empty(*sizes, **more))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    for name, stand_in in {
        "device": contextlib.nullcontext,
        "current_device": lambda: 0,
        "get_device_properties": lambda device: type("Properties", (), {"uuid": "GPU-1"}),
        "current_stream": lambda: type("Stream", (), {"synchronize": staticmethod(lambda: None)}),
        "ipc_collect": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(packed_tensor, "reduce_tensor", lambda tensor: (None, handle))
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    policy = make_policy("qwen3_tied")
    with serving() as (url, script):
        host = start([url], IPC, devices=["0"])
        host.load(host.take(policy, dtype=torch.bfloat16))
        [(_, init), (_, begun), (path, update), (_, finished)] = told(script)
        assert (init, begun, finished, path) == ({"init_info": {"packed": True}}, {}, {}, "/update_weights")
        info = update["update_info"]
        pickled = info.pop("ipc_handles_pickled")
        sizes = info.pop("tensor_sizes")
        assert info == metadata(policy)
        assert sizes == [2 * policy.model.state_dict()[name].numel() for name in info["names"]]
        assert pickle.loads(base64.b64decode(pickled)) == {"GPU-1": handle}
        read = IPCWeightTransferUpdateInfo(**info, tensor_sizes=sizes, ipc_handles_pickled=pickled)
        assert read.ipc_handles == {"GPU-1": handle}
        host.shut_down()


@pytest.mark.parametrize("path", ["/start_weight_update", "/update_weights", "/finish_weight_update"])
def test_a_server_of_yours_that_was_half_updated_is_not_drawn_from(make_policy, path):
    """It says that it is well; what it has is neither the old nor the new weights. Nothing is said to it twice."""
    policy = make_policy("qwen3_tied")
    with serving() as (url, script):
        host = start([url], SharedMemory())
        files = host.take(policy)
        host.load(files)
        host.draw([RowRequest(prompt_ids=(5, 6), params={})], files)
        later = host.take(policy)
        script.asked.clear()
        script.before = lambda asked: 500 if asked == path else None
        with pytest.raises(EngineDied, match=r"vLLM replica 0 .* failed with status 500 while being given weights"):
            host.load(later)
        assert [asked for asked, _ in script.asked].count(path) == 1
        script.before = lambda asked: None
        with pytest.raises(RuntimeError, match=r"^an update of the weights of vLLM replica 0 .* failed in the mid"):
            host.restart()
        with pytest.raises(RuntimeError, match=r"^an update of the weights of vLLM replica 0 .* failed in the mid"):
            host.load(later)
        assert not any("generate" in asked for asked, _ in script.asked)
        host.shut_down()


@dataclass(frozen=True)
class Patient:
    """Time-outs for a real server on a busy machine."""

    start_s: float = 400.0
    answer_s: float = 100.0
    attempts: int = 3
    first_pause_s: float = 0.1


@pytest.mark.vllm
def test_vllm_takes_weights_by_its_routes_and_is_replaced_when_an_update_breaks(make_policy):
    """The probe and the checksums after each sync compare what vLLM then has with the policy."""
    policy = make_policy("qwen3_tied", hidden_size=64, head_dim=32)
    host = VllmServers(**{**SETTINGS, "transfer": SharedMemory(), "timeouts": Patient()})
    engine = VllmEngine(host=host, max_rows=4, max_model_len=None, retries=1, tolerance=1e-4)
    engine.sync(policy)
    [replica] = engine._host._replicas
    before = replica.checksums()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.3)
    engine.sync(policy)
    assert engine._host._replicas == [replica]
    assert replica.checksums() != before
    SharedMemory.failures.append("/dev/shm/nowhere")
    engine.sync(policy)  # with the same weights: those of the server that broke are thrown away with it
    assert SharedMemory.failures == []
    [successor] = engine._host._replicas
    assert successor.process.pid != replica.process.pid
    assert replica.process.exit_code() is not None
    [group] = engine.generate([Prompt(user="x")], Sampling(max_tokens=4))
    assert group.completions[0].token_ids
    engine.close()
