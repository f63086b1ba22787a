"""A process of a run that ends out of turn ends them all within seconds, and says or is told why.

Collectives do not tell: while rank 0 draws or judges the others wait for hours, NCCL needs half an hour to give up, and
the agents of torchrun on several machines do not tell one another. So each process holds a connection to rank 0. The
kernel closes it with the process, and its keepalive probes find out that a machine or a network is gone. Heartbeats
in the store of the rendezvous would need a timeout for what the kernel tells at once, and by then a launcher has ended
the neighbours of the process that was first.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from multiprocessing.connection import Connection, wait

import torch.distributed as dist

from rzero.processes.ranks import Ranks

_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 4}  # s, s, probes: dead after 30 s
_CONNECT_TIMEOUT_S = 60.0
_OWN_REASON_S = 10.0  # how long a process may go on after another failed: it may be about to fail for the same reason
_NO_REASON_S = 1.0  # how long after another died
_CLOSE_S = 20.0  # how long it then has to close everything in order before it is ended where it stands
_LAUNCHER_S = 0.5  # how long one that is told to stop waits to hear that its launcher stops it because of another
_REASON_S = 30.0  # how long one whose collective failed waits to hear because of whom
_GOODBYE = b""
_GONE = "is gone without a word: it was killed, or its machine or network is down"
_LONGEST_REASON = 2_000  # characters
_ENDED = 2  # the exit code of a process that could not be ended in order


class Lost(RuntimeError):
    """Another process of the run failed: the message says which, and its reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"another process of the run failed: {reason}")


@contextmanager
def watched(ranks: Ranks, *, address: str) -> Iterator[None]:
    """Watch the other processes while the context lasts; all ranks enter it together, and leave it together.

    address: where the others reach rank 0. Leaving it with an exception tells them the exception. When another one
    left so or died, `Lost` is raised in the main thread; a main thread that hears nothing, in a collective on a GPU
    for instance, is ended with the process (exit code 2, the reason on stderr).
    """
    watch = _Watch(_meet(ranks, address), name=_name(ranks.rank), first=ranks.first)
    with _interrupted_by(watch):
        watch.start()
        try:
            yield
            watch.tell(_GOODBYE)
        except BaseException as error:
            watch.explain(error)
            raise
        finally:
            watch.close()


def is_lost_connection(error: BaseException) -> bool:
    """Returns whether an error only shows a failure elsewhere (gloo then raises a plain RuntimeError)."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class _Watch:
    """The thread that listens: on rank 0 to all others, whom it passes on what it hears, elsewhere to rank 0."""

    def __init__(self, peers: dict[Connection, str], *, name: str, first: bool) -> None:
        self.loss: Lost | None = None
        self.main: int | None = None  # the thread that takes signals, where it is ours
        self._peers, self._name, self._first = peers, name, first
        self._over, self._left = threading.Event(), threading.Event()
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, message: bytes, *, but: Connection | None = None) -> None:
        for connection in self._peers:
            if connection is not but:
                with suppress(OSError):  # it is gone: whoever is concerned hears so
                    connection.send_bytes(message)

    def explain(self, error: BaseException) -> None:
        """Tells the others why this process fails. Raises Lost where that is only because another one did."""
        if isinstance(error, Lost):
            return
        if (patience := _patience(error)) and self._over.wait(patience) and self.loss:
            raise self.loss from error
        said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:_LONGEST_REASON]
        self.tell(f"{self._name}: {said}".encode())
        if not self._first:
            self._over.wait(_CLOSE_S)  # a launcher ends all when the first process ends; rank 0 has a report to write

    def close(self) -> None:
        self._left.set()
        os.close(self._woken)
        self._thread.join()
        os.close(self._wake)
        for connection in self._peers:
            connection.close()

    def _listen(self) -> None:
        talking = dict(self._peers)
        while talking:
            ready = wait([*talking, self._wake])
            for connection in talking.keys() & ready:
                try:
                    said, patience = connection.recv_bytes(5 * _LONGEST_REASON).decode(), _OWN_REASON_S
                except (EOFError, OSError):
                    said, patience = f"{talking[connection]} {_GONE}", _NO_REASON_S
                if said:
                    self._lose(said, source=connection, patience=patience)
                    return
                del talking[connection]  # it said goodbye
            if self._wake in ready:
                return
        self._over.set()

    def _lose(self, reason: str, *, source: Connection, patience: float) -> None:
        """Passes a loss on, and sees to it that this process ends."""
        self.loss = Lost(reason)
        self._over.set()
        if self._first:
            self.tell(reason.encode(), but=source)
        if self._left.wait(patience):
            return
        if self.main is not None:
            signal.pthread_kill(self.main, signal.SIGUSR1)
        if not self._left.wait(_CLOSE_S):
            print(f"error: {self.loss}", file=sys.stderr, flush=True)
            os._exit(_ENDED)


@contextmanager
def _interrupted_by(watch: _Watch) -> Iterator[None]:
    """Raises the watch's loss in this thread when SIGUSR1 arrives. Only the main thread takes signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        if watch.loss is not None:
            raise watch.loss

    watch.main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def _patience(error: BaseException) -> float:
    """How long to wait for another process' reason: an error may be the consequence of one."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return _LAUNCHER_S
    return _REASON_S if is_lost_connection(error) else 0.0


def _name(rank: int) -> str:
    return f"rank {rank} (pid {os.getpid()} on {socket.gethostname()})"


def _meet(ranks: Ranks, address: str) -> dict[Connection, str]:
    """Connections, with the name of who is at the other end: from rank 0 to all, from the others to rank 0."""
    if not ranks.first:
        port, key, name = ranks.from_first(None)
        with socket.create_connection((address, port), timeout=_CONNECT_TIMEOUT_S) as client:
            client.settimeout(None)
            connection = _lasting(client)
        connection.send_bytes(json.dumps([key, _name(ranks.rank)]).encode())
        return {connection: name}
    # one machine listens to itself only
    local = ip_address(socket.gethostbyname(address)).is_loopback
    with socket.create_server((address if local else "", 0), backlog=ranks.size) as server:
        server.settimeout(_CONNECT_TIMEOUT_S)
        key = secrets.token_hex()
        ranks.from_first((server.getsockname()[1], key, _name(0)))
        peers: dict[Connection, str] = {}
        while len(peers) < ranks.size - 1:
            with server.accept()[0] as client:
                connection = _lasting(client)
            if name := _introduced(connection, key):
                peers[connection] = name
            else:
                connection.close()
        return peers


def _introduced(connection: Connection, key: str) -> str:
    """The name of a process that knows the key; empty for anybody else."""
    with suppress(EOFError, OSError, ValueError, TypeError):
        if connection.poll(_CONNECT_TIMEOUT_S):
            given, name = json.loads(connection.recv_bytes(_LONGEST_REASON))
            return str(name) if hmac.compare_digest(str(given).encode(), key.encode()) else ""
    return ""


def _lasting(client: socket.socket) -> Connection:
    """A connection that notices when the other machine is gone. Takes the socket over."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        client.setsockopt(socket.IPPROTO_TCP, option, value)
    return Connection(client.detach())
