"""The attacks of this package as ART's evasion attacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_ext.api import Attack, Confidence, ConfigError, Facts
from art_ext.border.art import ClassifierView, MethodAttack
from art_ext_attacks.apgd import APGDIngredient
from art_ext_attacks.autoattack import AutoAttackIngredient
from art_ext_attacks.corrupted import CommonCorruption
from art_ext_attacks.evading import EvadeDetectors
from art_ext_attacks.fab import FABIngredient
from art_ext_attacks.frames import Frames
from art_ext_attacks.least_likely import ILCM
from art_ext_attacks.minimal_l2 import CWL2, CWHighConfidence
from art_ext_attacks.rays import RaySIngredient
from art_ext_attacks.saliency import JSMAIngredient
from art_ext_attacks.spsa import SPSAIngredient
from art_ext_attacks.square import SquareIngredient
from art_ext_attacks.transfer import Transfer, Transferred


class ILCMAttack(MethodAttack):
    """The iterative least-likely class method: `ILCMAttack(classifier, eps=0.15, steps=20).generate(x, y)`."""

    ingredient = ILCM


class CWL2Attack(MethodAttack, bounded=False):
    """C&W L2: `CWL2Attack(classifier, steps=1000).generate(x, y)`; its distances are not bounded."""

    ingredient = CWL2


class CWHighConfidenceAttack(MethodAttack, bounded=False):
    """C&W-hc: `CWHighConfidenceAttack(classifier, confidence=10, steps=1000).generate(x, y)`."""

    ingredient = CWHighConfidence


class EvadeDetectorsAttack(MethodAttack):
    """PGD against fitted detectors, all of which must keep.

    `EvadeDetectorsAttack(classifier, detectors=(fitted,), eps=0.15).generate(x, y)`
    """

    ingredient = EvadeDetectors

    @classmethod
    def example(cls, estimator: PyTorchClassifier) -> EvadeDetectorsAttack:
        """A small one, against a confidence above 1/2."""
        detector = Confidence()
        detector.threshold = 0.5
        return cls(estimator, detectors=(detector,), steps=4)


class SPSAAttack(MethodAttack):
    """SPSA: `SPSAAttack(classifier, eps=0.15, steps=100, samples=128).generate(x, y)`."""

    ingredient = SPSAIngredient


class RaySAttack(MethodAttack):
    """RayS: `RaySAttack(classifier, eps=0.15, queries=10_000).generate(x, y)`."""

    ingredient = RaySIngredient


class FramesAttack(MethodAttack, bounded=False):
    """Adversarial frames: `FramesAttack(classifier, width=2).generate(x, y)`."""

    ingredient = Frames


class JSMAAttack(MethodAttack, bounded=False):
    """JSMA: `JSMAAttack(classifier, values=20).generate(x, y)`."""

    ingredient = JSMAIngredient


class CorruptionAttack(MethodAttack, bounded=False):
    """A common corruption: `CorruptionAttack(classifier, kind="fog", severity=3).generate(x)`."""

    ingredient = CommonCorruption

    def attack(self, facts: Facts) -> Attack:
        """As the base's.

        Raises:
            ConfigError: where it is told to aim at classes.
        """
        if self.targeted:
            raise ConfigError("a corruption aims at no class; leave targeted out")
        return super().attack(facts)


class TransferAttack(MethodAttack):
    """Examples of another classifier: `TransferAttack(classifier, surrogate=other, eps=0.15).generate(x, y)`.

    The surrogate is an ART `PyTorchClassifier` for the same images and classes; the classifier itself is asked nothing.
    """

    ingredient = Transferred

    @classmethod
    def example(cls, classifier: Any) -> TransferAttack:
        """A small instance."""
        return cls(classifier, surrogate=classifier, eps=0.1, steps=2)

    def attack(self, facts: Facts) -> Attack:
        made = super().attack(facts)
        assert isinstance(made, Transfer)
        return replace(made, surrogate=ClassifierView(made.surrogate, type(self)).net)


class APGDAttack(MethodAttack):
    """APGD: `APGDAttack(classifier, eps=0.15, objective="targeted_dlr").generate(x, y)`."""

    ingredient = APGDIngredient


class FABAttack(MethodAttack):
    """FAB: `FABAttack(classifier, norm="l2", eps=0.5).generate(x, y)`; `minimal=True` ignores eps."""

    ingredient = FABIngredient


class SquareAttack(MethodAttack):
    """Square: `SquareAttack(classifier, eps=0.15, queries=5000).generate(x, y)`."""

    ingredient = SquareIngredient


class AutoAttack(MethodAttack):
    """AutoAttack: `AutoAttack(classifier, eps=0.15, version="standard").generate(x, y)`."""

    ingredient = AutoAttackIngredient
