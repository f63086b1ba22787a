"""Talking to one vLLM server over HTTP: with time-outs, retries, and errors that name the replica and the phase."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rzero.engines.vllm.requests import Drawn, RowRequest
from rzero.engines.vllm.retry import EngineDied
from rzero.engines.vllm.server_process import ServerProcess
from rzero.types import Json

_POLL_S = 0.2


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
        self._url, self.process, self._timeouts = url.rstrip("/"), process, timeouts
        self.name = f"vLLM replica {number} ({self._url})"
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy has no business between us
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections))

    def await_ready(self) -> None:
        """Returns when the server answers. Raises EngineDied when its process ends or the time is up."""
        deadline = time.monotonic() + self._timeouts.start_s
        while not self.answers():
            self._check_process("starting")
            if time.monotonic() > deadline:
                raise EngineDied(
                    f"{self.name} was not ready within {self._timeouts.start_s:g} s (engine.host.timeouts.start_s)"
                )
            time.sleep(_POLL_S)

    def answers(self) -> bool:
        """Returns whether the server says that it is well, now."""
        try:
            return self._session.get(f"{self._url}/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def longest(self) -> int:
        """The longest sequence (tokens) that it serves."""
        answer = self._ask("describing its model", lambda: self._session.get(f"{self._url}/v1/models", timeout=30))
        return int(answer["data"][0]["max_model_len"])

    def load(self, directory: Path) -> None:
        """Weights from a folder that holds config.json and model.safetensors; the prefix cache is emptied."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        self._post("/collective_rpc", body, phase="loading weights")
        self.empty_prefix_cache()

    def empty_prefix_cache(self) -> None:
        """It holds what the old weights made of prompts."""
        if not self._post("/reset_prefix_cache", {}, phase="emptying the prefix cache")["success"]:
            raise EngineDied(f"{self.name} could not empty its prefix cache: it is still drawing for somebody")

    def checksums(self) -> dict[str, str] | None:
        """Returns the sha256 of every parameter, as vLLM has it now; None from a server that cannot say."""
        try:
            answer = self._post("/weight_checker", {"action": "checksum"}, phase="saying its weights' checksums")
        except Refused as refusal:
            if refusal.status != HTTPStatus.NOT_FOUND:
                raise
            return None
        return dict(answer["checksums"])

    def world_size(self) -> int:
        """Returns the number of its workers: GPUs that hold a part of the weights."""
        answer = self._ask("describing itself", lambda: self._session.get(f"{self._url}/get_world_size", timeout=30))
        return int(answer["world_size"])

    def post(self, path: str, body: Json, *, phase: str) -> Json:
        """Returns the answer to something that changes the server, and hence is never asked twice."""
        url, limit = f"{self._url}{path}", self._timeouts.answer_s
        return self._ask(phase, lambda: self._session.post(url, json=body, timeout=limit), attempts=1)

    def draw(self, request: RowRequest) -> Drawn:
        body = {"token_ids": list(request.prompt_ids), "sampling_params": request.params}
        [choice] = self._post("/inference/v1/generate", body, phase="drawing")["choices"]
        logprobs = tuple(float(step["logprob"]) for step in choice["logprobs"]["content"])
        return Drawn(token_ids=tuple(choice["token_ids"]), logprobs=logprobs)

    def end(self) -> None:
        """Ends the process when it is ours."""
        self._session.close()
        if self.process is not None:
            self.process.end()

    def _post(self, path: str, body: Json, *, phase: str) -> Json:
        url, limit = f"{self._url}{path}", self._timeouts.answer_s
        return self._ask(phase, lambda: self._session.post(url, json=body, timeout=limit))

    def _ask(self, phase: str, call: Callable[[], requests.Response], *, attempts: int | None = None) -> Json:
        """The JSON answer. Requests are pure functions, so one whose connection broke can be made again."""

        def attempt() -> requests.Response:
            self._check_process(phase)
            return call()

        retrying = Retrying(
            retry=retry_if_exception_type(requests.ConnectionError),
            stop=stop_after_attempt(attempts or self._timeouts.attempts),
            wait=wait_exponential(multiplier=self._timeouts.first_pause_s),
            reraise=True,
        )
        try:
            response = retrying(attempt)
        except requests.Timeout as error:
            limit = self._timeouts.answer_s
            raise EngineDied(
                f"{self.name} gave no answer within {limit:g} s while {phase} (engine.host.timeouts.answer_s)"
            ) from error
        except requests.RequestException as error:
            self._check_process(phase)
            raise EngineDied(f"{self.name} cannot be reached while {phase}: {error}") from error
        if response.status_code >= 500:
            raise EngineDied(
                f"{self.name} failed with status {response.status_code} while {phase}: {response.text[:500]}"
            )
        if response.status_code >= 400:
            raise Refused(
                f"{self.name} refused a request while {phase} (status {response.status_code}): {response.text[:500]}; "
                "a server of your own needs the options in rzero/engines/vllm/servers.py",
                status=response.status_code,
            )
        answer: Json = response.json()
        return answer

    def _check_process(self, phase: str) -> None:
        if self.process is not None and (code := self.process.exit_code()) is not None:
            raise EngineDied(
                f"{self.name} ended with exit code {code} while {phase}; its log ends:\n{self.process.log_tail()}"
            )
