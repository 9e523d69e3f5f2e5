"""All that a plugin's author may import.

A plugin is one package with one or more `Ingredient`s, a hook that returns them, and one entry
point in the group `art_ext`; see the README for one in twenty lines.
"""

from art_ext.aims import ObjectiveName, objectives_for
from art_ext.data.corruptions import CORRUPTIONS
from art_ext.engine.freeze import frozen
from art_ext.engine.step import Moves, Step
from art_ext.entries import AttackEntry, EvaluationContext, Family, ModelEntry
from art_ext.errors import ComposeError, ConfigError, DataError, ModelError, Problem, unknown
from art_ext.host.hookspecs import hookimpl
from art_ext.ingredient import (
    Count,
    Ingredient,
    NonNegative,
    Number,
    Paper,
    Positive,
    Radius,
    Share,
    StepSize,
    checked,
)
from art_ext.lazy import lazily
from art_ext.parts.attacks import (
    PGD,
    Attack,
    Best,
    GaussianStart,
    Start,
    UniformStart,
    ZeroStart,
    for_evaluation,
    stuck,
)
from art_ext.parts.backtracking import BacktrackingPGD
from art_ext.parts.carlini_wagner import CarliniWagner
from art_ext.parts.criteria import Criterion, CrossEntropy
from art_ext.parts.detectors import Confidence, Detector, log_confidence, score_of
from art_ext.parts.distal import Distal, distal_confidence
from art_ext.parts.ensemble import Ensemble, ensemble, log_mean_softmax
from art_ext.parts.evading import evading, fooling
from art_ext.parts.noise import Keys
from art_ext.parts.norms import L0, L1, L2, Eps, Linf, Norm, norm_named
from art_ext.parts.objectives import (
    Objective,
    Score,
    ce,
    cw,
    dlr_ratio,
    kl_divergence,
    kl_to_clean,
    largest_other,
    margin,
    objective_named,
    of_criterion,
    other_confidence,
    unending,
)
from art_ext.parts.precision import at_least_float32
from art_ext.parts.ranges import Growing, OfEps, Uniform, warm_up
from art_ext.parts.risks import Augment, Clean, Madry, Mixed, Risk, Terms, both
from art_ext.parts.strongest import Strongest
from art_ext.parts.surgery import MethodHead, ReplaceHead, Surgery, find_head, method_head, probe, put
from art_ext.parts.targeted import EveryTarget, RandomTarget, wrong_classes
from art_ext.parts.targets import Target
from art_ext.plan import Plan, Scores, Update, thresholded_worst_case, worst_case
from art_ext.types import Adversarial, Facts, Forward, Outputs, Progress, Rows, View, Views, offer

__all__ = [
    "CORRUPTIONS",
    "L0",
    "L1",
    "L2",
    "PGD",
    "Adversarial",
    "Attack",
    "AttackEntry",
    "Augment",
    "BacktrackingPGD",
    "Best",
    "CarliniWagner",
    "Clean",
    "ComposeError",
    "Confidence",
    "ConfigError",
    "Count",
    "Criterion",
    "CrossEntropy",
    "DataError",
    "Detector",
    "Distal",
    "Ensemble",
    "Eps",
    "EvaluationContext",
    "EveryTarget",
    "Facts",
    "Family",
    "Forward",
    "GaussianStart",
    "Growing",
    "Ingredient",
    "Keys",
    "Linf",
    "Madry",
    "MethodHead",
    "Mixed",
    "ModelEntry",
    "ModelError",
    "Moves",
    "NonNegative",
    "Norm",
    "Number",
    "Objective",
    "ObjectiveName",
    "OfEps",
    "Outputs",
    "Paper",
    "Plan",
    "Positive",
    "Problem",
    "Progress",
    "Radius",
    "RandomTarget",
    "ReplaceHead",
    "Risk",
    "Rows",
    "Score",
    "Scores",
    "Share",
    "Start",
    "Step",
    "StepSize",
    "Strongest",
    "Surgery",
    "Target",
    "Terms",
    "Uniform",
    "UniformStart",
    "Update",
    "View",
    "Views",
    "ZeroStart",
    "at_least_float32",
    "both",
    "ce",
    "checked",
    "cw",
    "distal_confidence",
    "dlr_ratio",
    "ensemble",
    "evading",
    "find_head",
    "fooling",
    "for_evaluation",
    "frozen",
    "hookimpl",
    "kl_divergence",
    "kl_to_clean",
    "largest_other",
    "lazily",
    "log_confidence",
    "log_mean_softmax",
    "margin",
    "method_head",
    "norm_named",
    "objective_named",
    "objectives_for",
    "of_criterion",
    "offer",
    "other_confidence",
    "probe",
    "put",
    "score_of",
    "stuck",
    "thresholded_worst_case",
    "unending",
    "unknown",
    "warm_up",
    "worst_case",
    "wrong_classes",
]
