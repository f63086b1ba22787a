"""Finding answers and comparing them: the only judge of the self-play loop."""

from rzero.grading.exact_grader import ExactGrader
from rzero.grading.extraction import last_boxed
from rzero.grading.math_grader import MathGrader
from rzero.grading.official_grader import OfficialGrader

__all__ = ["ExactGrader", "MathGrader", "OfficialGrader", "last_boxed"]
