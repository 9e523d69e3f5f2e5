"""The attacks of this package as ART's evasion attacks."""

from art_ext.border.art import MethodAttack
from art_ext_attacks.frames import Frames
from art_ext_attacks.least_likely import ILCM
from art_ext_attacks.minimal_l2 import CWL2
from art_ext_attacks.rays import RaySIngredient
from art_ext_attacks.saliency import JSMAIngredient
from art_ext_attacks.spsa import SPSAIngredient


class ILCMAttack(MethodAttack):
    """The iterative least-likely class method: `ILCMAttack(classifier, eps=0.15, steps=20).generate(x, y)`."""

    ingredient = ILCM


class CWL2Attack(MethodAttack):
    """C&W L2: `CWL2Attack(classifier, steps=1000).generate(x, y)`; its distances are not bounded."""

    ingredient = CWL2


class SPSAAttack(MethodAttack):
    """SPSA: `SPSAAttack(classifier, eps=0.15, steps=100, samples=128).generate(x, y)`."""

    ingredient = SPSAIngredient


class RaySAttack(MethodAttack):
    """RayS: `RaySAttack(classifier, eps=0.15, queries=10_000).generate(x, y)`."""

    ingredient = RaySIngredient


class FramesAttack(MethodAttack):
    """Adversarial frames: `FramesAttack(classifier, width=2).generate(x, y)`."""

    ingredient = Frames


class JSMAAttack(MethodAttack):
    """JSMA: `JSMAAttack(classifier, values=20).generate(x, y)`."""

    ingredient = JSMAIngredient
