"""The demands of a run, from its configuration alone.

Read in this order: architecture, rollouts, memory, work, simulation.
"""

from experiments.planning.architecture import Architecture
from experiments.planning.hardware import Hardware
from experiments.planning.memory import Memory, Setting, memory_of
from experiments.planning.rollouts import Rollouts
from experiments.planning.work import Work, decoding, evaluation, sync, uncounted, update

__all__ = [
    "Architecture",
    "Hardware",
    "Memory",
    "Rollouts",
    "Setting",
    "Work",
    "decoding",
    "evaluation",
    "memory_of",
    "sync",
    "uncounted",
    "update",
]
