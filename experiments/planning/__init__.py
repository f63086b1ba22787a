"""The demands of a run, from its configuration alone. Read in this order: architecture, rollouts, memory, work."""

from experiments.planning.architecture import Architecture
from experiments.planning.hardware import Hardware
from experiments.planning.memory import Memory, Setting, memory_of
from experiments.planning.rollouts import Rollouts
from experiments.planning.work import Work, work_of

__all__ = ["Architecture", "Hardware", "Memory", "Rollouts", "Setting", "Work", "memory_of", "work_of"]
