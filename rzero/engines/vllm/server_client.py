"""Talking to one vLLM server over HTTP: with time-outs, retries, and errors that name the replica and the phase."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec
import urllib3
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from urllib3.exceptions import HTTPError, ReadTimeoutError

from rzero.engines.vllm.adapters import Adapter
from rzero.engines.vllm.requests import Drawn, RowRequest
from rzero.engines.vllm.retry import EngineDied
from rzero.engines.vllm.server_process import ServerProcess
from rzero.types import Json

VLLM = "0.32"
"""The version whose routes these are."""
API_KEY = "VLLM_API_KEY"
"""The environment variable that servers of ours and yours take their key from, and this side too."""
_POLL_S = 0.2
_HEALTH_S = 5.0
_JSON = {"Content-Type": "application/json"}


class _Step(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: Sequence[_Step]


class _Choice(msgspec.Struct):
    token_ids: tuple[int, ...]
    logprobs: _Logprobs | None = None


class _Generated(msgspec.Struct):
    """What is read of an answer: a tenth of its 140 bytes a token, so that the rest is skipped, not built."""

    choices: tuple[_Choice]


_read_generated = msgspec.json.Decoder(_Generated).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time-outs of a server, in seconds. start_s: until it is ready; answer_s: for one request; attempts: tries of a
    request whose connection fails, with pauses that double from first_pause_s."""

    start_s: float
    answer_s: float
    attempts: int
    first_pause_s: float

    def __post_init__(self) -> None:
        if self.start_s <= 0 or self.answer_s <= 0 or self.attempts < 1 or self.first_pause_s < 0:
            raise ValueError(
                "engine.host.timeouts: start_s and answer_s must be positive, attempts at least 1 and "
                f"first_pause_s at least 0, got {self}"
            )


class Refused(RuntimeError):
    """A server does not do what it was asked to, and said so with an HTTP status of 400 and more."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Replica:
    """A server at `url`. `process` is the one that we started, None when it is the user's.

    connections: how many requests may be under way at once without opening new connections.
    """

    def __init__(
        self, url: str, *, number: int, process: ServerProcess | None, timeouts: Timeouts, connections: int
    ) -> None:
        self.process, self._timeouts = process, timeouts
        self.name = f"vLLM replica {number} ({url.rstrip('/')})"
        key = os.environ.get(API_KEY)
        self._headers = {**_JSON, "Authorization": f"Bearer {key}"} if key else _JSON
        self._pool = urllib3.connection_from_url(url, maxsize=connections)  # knows no proxy
        self._prefix = urllib3.util.parse_url(url).path or ""
        self._known = False

    def await_ready(self) -> None:
        """Returns when the server answers. Raises EngineDied when its process ends or the time is up.

        Raises RuntimeError when it is another version of vLLM.
        """
        deadline = time.monotonic() + self._timeouts.start_s
        while not self.answers():
            self._check_process("starting")
            if time.monotonic() > deadline:
                raise EngineDied(
                    f"{self.name} was not ready within {self._timeouts.start_s:g} s (engine.host.timeouts.start_s)"
                )
            time.sleep(_POLL_S)
        if not self._known:
            version = str(self._ask("GET", "/version", phase="saying its version").get("version"))
            if not version.startswith(f"{VLLM}."):
                raise RuntimeError(f"{self.name} is vLLM {version}; its routes are those of {VLLM} here")
            self._known = True

    def answers(self) -> bool:
        """Returns whether the server says that it is well, now."""
        try:
            return self._send("GET", "/health", None, timeout=_HEALTH_S).status == HTTPStatus.OK
        except HTTPError:
            return False

    def longest(self) -> int:
        """The longest sequence (tokens) that it serves."""
        return int(self._ask("GET", "/v1/models", phase="describing its model")["data"][0]["max_model_len"])

    # ---- weights -------------------------------------------------------------------------------------------------

    def load(self, directory: Path) -> None:
        """Weights from a folder that holds config.json and model.safetensors; the prefix cache is emptied."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        self._ask("POST", "/collective_rpc", body, phase="loading weights")
        self.empty_prefix_cache()

    def empty_prefix_cache(self) -> None:
        """It holds what the old weights made of prompts."""
        if not self._ask("POST", "/reset_prefix_cache", {}, phase="emptying the prefix cache")["success"]:
            raise EngineDied(f"{self.name} could not empty its prefix cache: it is still drawing for somebody")

    def checksums(self) -> dict[str, str] | None:
        """Returns the sha256 of every parameter, as vLLM has it now; None from a server that cannot say."""
        asked = {"action": "checksum"}
        try:
            answer = self._ask("POST", "/weight_checker", asked, phase="saying its weights' checksums")
        except Refused as refusal:
            if refusal.status != HTTPStatus.NOT_FOUND:
                raise
            return None
        return dict(answer["checksums"])

    def world_size(self) -> int:
        """Returns the number of its workers: GPUs that hold a part of the weights."""
        return int(self._ask("GET", "/get_world_size", phase="describing itself")["world_size"])

    def post(self, path: str, body: Json, *, phase: str) -> Json:
        """Returns the answer to something that changes the server, and hence is never asked twice."""
        answer: Json = self._checked("POST", path, body, phase=phase, attempts=1).json()
        return answer

    def load_adapter(self, adapter: Adapter, *, name: str) -> None:
        """Serves an adapter as the model `name`. Raises RuntimeError when the server does not take adapters."""
        body = {"lora_name": name, "lora_path": str(adapter.directory)}
        response = self._answered("POST", "/v1/load_lora_adapter", body, phase="loading an adapter", attempts=1)
        if response.status == HTTPStatus.OK:
            return
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not self.answers():
            raise EngineDied(f"{self.name} died while loading an adapter: {_said(response)}")
        raise RuntimeError(
            f"{self.name} does not take LoRA adapters (status {response.status}: {_said(response)}); start it with "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and {' '.join(adapter.flags())}"
        )

    def unload_adapter(self, name: str) -> None:
        """Forgets one that it has."""
        self._answered("POST", "/v1/unload_lora_adapter", {"lora_name": name}, phase="unloading an adapter")

    def sleep(self, level: int) -> None:
        """Gives its cache and weights up; 1: weights are kept in host memory, 2: they have to be loaded again."""
        self._ask("POST", f"/sleep?level={level}", {}, phase="going to sleep")

    def wake(self, part: str) -> None:
        """Takes the memory of one part, weights or kv_cache, again."""
        self._ask("POST", f"/wake_up?tags={part}", {}, phase=f"waking its {part}")

    # ---- rollouts ------------------------------------------------------------------------------------------------

    def draw(self, request: RowRequest, *, model: str | None = None) -> Drawn:
        """One completion, of the adapter that is served as `model` (None: of the weights)."""
        body = {"token_ids": request.prompt_ids, "sampling_params": request.params}
        if model is not None:
            body["model"] = model
        response = self._checked("POST", "/inference/v1/generate", body, phase="drawing")
        try:
            [choice] = _read_generated(response.data).choices
        except msgspec.MsgspecError as error:
            raise RuntimeError(f"{self.name} gave an answer that is none of vLLM {VLLM}'s: {error}") from error
        steps = choice.logprobs.content if choice.logprobs else ()
        return Drawn(token_ids=choice.token_ids, logprobs=tuple([step.logprob for step in steps]))

    def end(self) -> None:
        """Ends the process when it is ours."""
        self._pool.close()
        if self.process is not None:
            self.process.end()

    # ---- requests ------------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Json | None = None, *, phase: str) -> Json:
        """The JSON answer."""
        answer: Json = self._checked(method, path, body, phase=phase).json()
        return answer

    def _checked(
        self, method: str, path: str, body: Json | None, *, phase: str, attempts: int | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The answer of a server that did what it was asked."""
        response = self._answered(method, path, body, phase=phase, attempts=attempts)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise EngineDied(f"{self.name} failed with status {response.status} while {phase}: {_said(response)}")
        if response.status == HTTPStatus.UNAUTHORIZED:
            raise RuntimeError(f"{self.name} wants another key than that in the environment variable {API_KEY}")
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise Refused(
                f"{self.name} refused a request while {phase} (status {response.status}): {_said(response)}; "
                "a server of your own needs the options in rzero/engines/vllm/servers.py",
                status=response.status,
            )
        return response

    def _answered(
        self, method: str, path: str, body: Json | None, *, phase: str, attempts: int | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The answer, whatever its status. One whose connection broke is asked for again: most requests are pure."""

        def attempt() -> urllib3.BaseHTTPResponse:
            self._check_process(phase)
            return self._send(method, path, body, timeout=self._timeouts.answer_s)

        retrying = Retrying(
            retry=retry_if_exception(lambda e: isinstance(e, HTTPError) and not isinstance(e, ReadTimeoutError)),
            stop=stop_after_attempt(attempts or self._timeouts.attempts),
            wait=wait_exponential(multiplier=self._timeouts.first_pause_s),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except ReadTimeoutError as error:
            limit = self._timeouts.answer_s
            raise EngineDied(
                f"{self.name} gave no answer within {limit:g} s while {phase} (engine.host.timeouts.answer_s)"
            ) from error
        except HTTPError as error:
            self._check_process(phase)
            raise EngineDied(f"{self.name} cannot be reached while {phase}: {error}") from error

    def _send(self, method: str, path: str, body: Json | None, *, timeout: float) -> urllib3.BaseHTTPResponse:
        content = None if body is None else msgspec.json.encode(body)
        return self._pool.request(
            method, self._prefix.rstrip("/") + path, body=content, headers=self._headers, timeout=timeout, retries=False
        )

    def _check_process(self, phase: str) -> None:
        if self.process is not None and (code := self.process.exit_code()) is not None:
            raise EngineDied(
                f"{self.name} ended with exit code {code} while {phase}; its log ends:\n{self.process.log_tail()}"
            )


def _said(response: urllib3.BaseHTTPResponse) -> str:
    return response.data[:500].decode(errors="replace")
