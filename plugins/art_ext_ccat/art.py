"""CCAT as ART knows trainers, attacks and detectors."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from art_ext.api import Attack, Confidence, ConfigError, Distal, Facts, Ingredient, Plan, Positive, norm_named
from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext.border.art_detectors import ScoreDetector
from art_ext_ccat.attacks import BacktrackingSettings, NormName, PGDConfSettings, TestNormName
from art_ext_ccat.ingredient import CCAT


class CCATTrainer(MethodTrainer):
    """Trains a classifier with CCAT: `CCATTrainer(classifier, eps=0.15, base_lr=0.025).fit(x, y, nb_epochs=20)`."""

    ingredient = CCAT


class PGDConf(Ingredient, PGDConfSettings):
    """The test-time attack alone, as a value with options."""

    name = "pgd_conf"
    paper = CCAT.paper
    trial: ClassVar[Mapping[str, object]] = {"steps": 3, "restarts": 2}

    norm: TestNormName = "linf"
    eps: Annotated[Positive, Field(description="radius in clip-value units; of l0, pixels")] = 0.03

    def apply(self, plan: Plan) -> Plan:
        ball = norm_named(self.norm, self.eps)
        return plan.fill(self, attack=self.attack(ball, plan.facts.clip, plan.facts.n_classes))


class CCATAttack(MethodAttack):
    """PGD-Conf: the images with the highest confidence in a wrong class, misclassified or not.

    `CCATAttack(classifier, eps=0.15, base_lr=0.005, steps=200).generate(x, y)`; with targeted=True
    the images that leave the other classes the least. Defaults are the authors' 1000 steps and 11 starts.
    """

    ingredient = PGDConf

    def attack(self, facts: Facts) -> Attack:
        """The attack with all its starts.

        Raises:
            ConfigError: for every class, where one of them is the target.
        """
        assert isinstance(self._ingredient, PGDConf)
        if self.targeted and self._ingredient.every_class:
            raise ConfigError("every_class goes to all wrong classes, but targeted to one; leave one of them out")
        return super().attack(facts)


class DistalNoise(Ingredient, BacktrackingSettings):
    """Noise that is made confident, as a value with options."""

    name = "distal"
    paper = CCAT.paper
    trial: ClassVar[Mapping[str, object]] = {"steps": 3, "restarts": 2}

    norm: NormName = "linf"
    radius: Annotated[Positive, Field(description="of the ball around the noise; 0.03 and 0.3 in the code")] = 0.03

    def apply(self, plan: Plan) -> Plan:
        attack = Distal(self.strongest(norm_named(self.norm, self.radius), plan.facts.clip))
        return plan.fill(self, attack=attack)


class DistalAttack(MethodAttack, bounded=False):
    """Distal inputs: uniform noise within the radius of which the confidence is raised, in whatever class.

    `DistalAttack(classifier, radius=0.3, steps=200).generate(x)` gives as many images as x has, in its shape;
    nothing of x is in them. The share that a detector keeps is its false positive rate.
    """

    ingredient = DistalNoise
    takes_mask = False


class CCATDetector(ScoreDetector):
    """Rejects images of low confidence: `CCATDetector(classifier, tpr=0.99)`, fitted on held-out clean images."""

    score = Confidence
