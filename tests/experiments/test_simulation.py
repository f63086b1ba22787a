"""Memory by simulation: bytes worked out by hand."""

from __future__ import annotations

import torch

from experiments.planning.fake_tensors import fake_device


def test_bytes_are_counted_while_they_are_there() -> None:
    with fake_device() as counter:
        counter.at("first")
        kept = torch.zeros(256)
        view = kept[:10]
        assert counter.now == 1024
        doubled = kept * 2
        assert counter.now == 2048
        del doubled
        assert counter.now == 1024
        counter.at("second")
        torch.empty(512, dtype=torch.bfloat16)
        kept.untyped_storage().resize_(0)
        assert counter.now == 0
        kept.untyped_storage().resize_(1024)
        assert counter.now == 1024
        del kept, view
        assert counter.now == 0
    assert counter.peaks == {"first": 2048, "second": 2048}


def test_whole_numbers_and_masks_are_real_and_fake_numbers_can_be_read() -> None:
    with fake_device() as counter:
        ids, mask = torch.arange(6), torch.arange(6) > 3
        assert ids[mask].tolist() == [4, 5]
        assert counter.now == 0
        values = torch.ones(6)
        assert values[mask].shape == (2,)
        assert float(values.sum()) == 1.0
        assert not bool(values.any())
