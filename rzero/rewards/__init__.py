"""Rewards of both roles, one idea per file; numbers come from conf/challenger_reward and conf/solver_reward."""

from rzero.rewards.official import OfficialChallengerReward, OfficialSolverReward
from rzero.rewards.paper import PaperChallengerReward, PaperSolverReward
from rzero.rewards.pre_2025_12 import Pre202512ChallengerReward

__all__ = [
    "OfficialChallengerReward",
    "OfficialSolverReward",
    "PaperChallengerReward",
    "PaperSolverReward",
    "Pre202512ChallengerReward",
]
