"""The other side of the bench of the wire: the client of commit a84c35d, as far as drawing a row goes.

`requests` reads an answer, guesses its encoding and builds every object in it, nine tenths of which nobody looks at.
"""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rzero.engines.vllm.requests import Drawn, RowRequest
from rzero.types import Json

ATTEMPTS, FIRST_PAUSE_S, ANSWER_S = 5, 0.5, 100.0


class Before:
    """A server at `url`, with that many connections."""

    def __init__(self, url: str, *, connections: int) -> None:
        self._url, self._session = url, requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", HTTPAdapter(pool_maxsize=connections))

    def draw(self, request: RowRequest) -> Drawn:
        """One completion with its log-probs."""
        body: Json = {"token_ids": list(request.prompt_ids), "sampling_params": request.params}
        retrying = Retrying(
            retry=retry_if_exception_type(requests.ConnectionError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=FIRST_PAUSE_S),
            reraise=True,
        )
        response = retrying(
            lambda: self._session.post(f"{self._url}/inference/v1/generate", json=body, timeout=ANSWER_S)
        )
        [choice] = response.json()["choices"]
        logprobs = tuple(float(step["logprob"]) for step in choice["logprobs"]["content"])
        return Drawn(token_ids=tuple(choice["token_ids"]), logprobs=logprobs)

    def end(self) -> None:
        """Closes its connections."""
        self._session.close()
