"""Challenger and Solver as LightningModules."""

from rzero.modules.base import GRPOModule
from rzero.modules.challenger import Challenger
from rzero.modules.choices import OverlongPenalty, Refill
from rzero.modules.settings import GRPOSettings
from rzero.modules.solver import Solver

__all__ = ["Challenger", "GRPOModule", "GRPOSettings", "OverlongPenalty", "Refill", "Solver"]
