"""Trackers of metrics. The JSONL file is the record; everything else is a mirror of it."""

from rzero.tracking.csv_file import CsvTracker
from rzero.tracking.fanout import Fanout, NullTracker
from rzero.tracking.jsonl import JsonlTracker, is_timing, read_metrics
from rzero.tracking.tensorboard import TensorBoardTracker
from rzero.tracking.weights_and_biases import WandbTracker

__all__ = [
    "CsvTracker",
    "Fanout",
    "JsonlTracker",
    "NullTracker",
    "TensorBoardTracker",
    "WandbTracker",
    "is_timing",
    "read_metrics",
]
