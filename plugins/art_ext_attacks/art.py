"""The attacks of this package as ART's evasion attacks."""

from art_ext.border.art import MethodAttack
from art_ext_attacks.apgd import APGDIngredient
from art_ext_attacks.autoattack import AutoAttackIngredient
from art_ext_attacks.fab import FABIngredient
from art_ext_attacks.frames import Frames
from art_ext_attacks.least_likely import ILCM
from art_ext_attacks.minimal_l2 import CWL2
from art_ext_attacks.rays import RaySIngredient
from art_ext_attacks.saliency import JSMAIngredient
from art_ext_attacks.spsa import SPSAIngredient
from art_ext_attacks.square import SquareIngredient


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
