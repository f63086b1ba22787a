"""The servers of the bench of the wire, in a process of their own: every row is answered at once, in vLLM's form."""

from __future__ import annotations

import asyncio
import json
import random
import re

VOCABULARY = 151_936
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def answer(tokens: int, *, logprobs: bool) -> bytes:
    """Returns one response: each log-prob comes twice, because vLLM repeats it among the most probable ones."""
    generator = random.Random(0)
    ids = [generator.randrange(VOCABULARY) for _ in range(tokens)]
    steps = [{"token_id": token, "logprob": -generator.expovariate(2.0), "rank": 1} for token in ids]
    content = [{**step, "top_logprobs": [step]} for step in steps]
    choice = {"index": 0, "logprobs": {"content": content} if logprobs else None, "finish_reason": "length"}
    reply = {"request_id": "row", "choices": [{**choice, "token_ids": ids}], "output_mode": "tokens"}
    body = json.dumps(reply, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def serve(count: int, tokens: int) -> None:
    """Prints the ports of `count` servers, and answers rows of `tokens` tokens until it is killed."""
    replies = {logprobs: answer(tokens, logprobs=logprobs) for logprobs in (False, True)}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                asked = json.loads(await reader.readexactly(int(length[1]))) if length else {}
                writer.write(replies[asked["sampling_params"]["logprobs"] is not None])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    servers = [await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024) for _ in range(count)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()
