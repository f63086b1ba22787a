"""The bench of the wire: what a completion from servers costs rank 0, beside what it did."""

from __future__ import annotations

import pytest

from experiments.bench import wire


def test_a_completion_costs_less_than_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "ROWS", 120)
    monkeypatch.setattr(wire, "SIDE_BY_SIDE", (16,))
    figures = wire.run()
    assert 0 < figures["wire_ratio"] <= wire.LIMIT
    assert figures["ours_vote_ms_16"] < figures["ours_ms_16"]
    assert figures["vote_bytes_per_token"] < 0.1 * figures["bytes_per_token"]
