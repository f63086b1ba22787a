"""Rewards of both roles, one idea per file; numbers come from conf/challenger_reward and conf/solver_reward."""

from rzero.rewards.controls import (
    FormatChallengerReward,
    FormatSolverReward,
    RandomChallengerReward,
    RandomSolverReward,
)
from rzero.rewards.coverage import Coverage
from rzero.rewards.governor import Governor
from rzero.rewards.inverted_u import InvertedU
from rzero.rewards.memory import MemoryPenalty
from rzero.rewards.novelty import NoveltySolverReward
from rzero.rewards.official import OfficialChallengerReward, OfficialSolverReward
from rzero.rewards.paper import PaperChallengerReward, PaperSolverReward
from rzero.rewards.pre_2025_12 import Pre202512ChallengerReward
from rzero.rewards.self_answer import SelfAnswerBonus
from rzero.rewards.semantic_memory import SemanticMemory
from rzero.rewards.soft_vote import SoftVoteSolverReward
from rzero.rewards.validity_gate import ValidityGate

__all__ = [
    "Coverage",
    "FormatChallengerReward",
    "FormatSolverReward",
    "Governor",
    "InvertedU",
    "MemoryPenalty",
    "NoveltySolverReward",
    "OfficialChallengerReward",
    "OfficialSolverReward",
    "PaperChallengerReward",
    "PaperSolverReward",
    "Pre202512ChallengerReward",
    "RandomChallengerReward",
    "RandomSolverReward",
    "SelfAnswerBonus",
    "SemanticMemory",
    "SoftVoteSolverReward",
    "ValidityGate",
]
