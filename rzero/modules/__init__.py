"""Challenger and Solver as LightningModules."""

from rzero.modules.base import GRPOModule, GRPOSettings
from rzero.modules.challenger import Challenger
from rzero.modules.solver import Solver

__all__ = ["Challenger", "GRPOModule", "GRPOSettings", "Solver"]
