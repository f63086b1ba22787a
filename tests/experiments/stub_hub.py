"""Stands in for the Hugging Face hub on this machine: repositories, large files, commits. Remembers what it is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, COMMIT = "hf_stub", "0" * 40


@dataclass
class StubHub:
    """address: of its API. files: repository -> path -> bytes. fails_on: a path that it answers with an error."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    large: dict[str, bytes] = field(default_factory=dict)
    fails_on: str = ""


@contextmanager
def stub_hub() -> Iterator[StubHub]:
    hub = StubHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def answer(self, data: object = None, *, code: int = 200, **headers: str) -> None:
            content = json.dumps(data).encode()
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def body(self) -> bytes:
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def do_GET(self) -> None:
            name, _, path = self.path.partition("/resolve/main/")
            if path:
                self.file(hub.files[f"models{name}"][path])
                return
            repository = self.path.removeprefix("/api/")
            if repository in hub.files:
                siblings = [{"rfilename": path} for path in hub.files[repository]]
                self.answer({"id": repository.partition("/")[2], "sha": COMMIT, "siblings": siblings})
            else:
                self.answer({"error": "Repository not found"}, code=404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def file(self, content: bytes) -> None:
            self.send_response(200)
            headers = {"ETag": hashlib.sha256(content).hexdigest(), "X-Repo-Commit": COMMIT}
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_PUT(self) -> None:
            hub.large[self.path.rpartition("/")[2]] = self.body()
            self.answer()

        def do_POST(self) -> None:
            sent = self.body()
            if self.headers["Authorization"] != f"Bearer {TOKEN}" or (hub.fails_on and hub.fails_on in self.path):
                self.answer({"error": "not allowed"}, code=403)
            elif self.path == "/api/repos/create":
                self.create(json.loads(sent))
            elif self.path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [file["path"] for file in json.loads(sent)["files"]]
                modes = {path: "lfs" if path.endswith((".safetensors", ".parquet")) else "regular" for path in files}
                self.answer(
                    {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
                )
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(sent)["objects"]
                actions = {o["oid"]: {"upload": {"href": f"{hub.address}/large/{o['oid']}"}} for o in objects}
                self.answer({"transfer": "basic", "objects": [{**o, "actions": actions[o["oid"]]} for o in objects]})
            else:
                self.commit([json.loads(line) for line in sent.split(b"\n") if line])

        def create(self, wanted: dict[str, Any]) -> None:
            kind, name = wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}"
            key = f"{kind}s/{name}"
            if key in hub.files:
                self.answer({"error": "You already created this repo", "url": name}, code=409)
                return
            hub.files[key] = {}
            hub.private |= {key} if wanted.get("visibility") == "private" or wanted.get("private") else set()
            self.answer({"url": f"{hub.address}/{'datasets/' if kind == 'dataset' else ''}{name}"})

        def commit(self, lines: list[dict[str, Any]]) -> None:
            repository = self.path.removeprefix("/api/").partition("/commit/")[0]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[repository][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[repository][value["path"]] = hub.large[value["oid"]]
            url = f"{hub.address}/{repository.removeprefix('models/')}/commit/{'1' * 40}"
            self.answer({"commitUrl": url, "commitOid": "1" * 40, "success": True})

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
