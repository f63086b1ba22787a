"""What the other processes of a test do. Imports little, because each of them imports it anew."""

from __future__ import annotations

import os
import time

from rzero.processes.launch import RankConfig


def waiting_worker(rank_config: RankConfig) -> None:
    with rank_config.join() as ranks:
        ranks.gather(os.getpid())
        time.sleep(300)


def failing_worker(rank_config: RankConfig) -> None:
    with rank_config.join():
        raise ValueError("out of paper")
