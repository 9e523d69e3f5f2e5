"""Every ART trainer, attack and detector of every installed plugin keeps ART's contract: by discovery."""

from __future__ import annotations

import types
from importlib.metadata import entry_points

import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.defences.detector.evasion import EvasionDetector
from art.defences.trainer import Trainer

from art_ext.host.manager import PluginManager, default_manager
from art_ext.testing import check_attack, check_detector, check_trainer
from art_ext_baselines import PGDATAttack, PGDATTrainer
from art_ext_rce import ConfidenceDetector

pytestmark = pytest.mark.usefixtures("nobody_sends")


def exported(base: type) -> list[type]:
    """The classes of a kind that plugins export, those included that are imported when first asked for."""
    found = {}
    for point in entry_points(group="art_ext"):
        plugin = point.load()
        for name in plugin.__all__:
            value = getattr(plugin, name)
            if isinstance(value, type) and issubclass(value, base):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return [found[name] for name in sorted(found)]


def of_each(base: type) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", exported(base), ids=lambda kind: kind.__name__)


@of_each(Trainer)
def test_each_trainer_keeps_arts_contract(kind):
    check_trainer(kind)


@of_each(EvasionAttack)
def test_each_attack_keeps_arts_contract(kind):
    check_attack(kind)


@of_each(EvasionDetector)
def test_each_detector_keeps_arts_contract(kind):
    check_detector(kind)


def test_art_ext_plugins_lists_every_one_of_them():
    listed = {name for info in default_manager().catalogue.plugins for name in info.art}
    kinds = [kind for base in (Trainer, EvasionAttack, EvasionDetector) for kind in exported(base)]
    assert listed == {kind.__name__ for kind in kinds}


def test_a_plugin_that_imports_its_classes_at_once_has_them_listed_too():
    module = types.ModuleType("art_ext_eager")
    module.__all__, module.Doubles, module.number = ["Doubles", "number"], Doubles, 1
    (info,) = PluginManager.isolated({"eager": module}).catalogue.plugins
    assert info.art == ("Doubles",)


class Doubles(PGDATAttack):
    """An attack in float64."""

    def generate(self, x, y=None, **kwargs):
        return super().generate(x, y, **kwargs).astype("float64")


class TooFar(PGDATAttack):
    """An attack that leaves its ball."""

    def generate(self, x, y=None, **kwargs):
        return (super().generate(x, y, **kwargs) - 0.1).clip(0, 1)


class Unmasked(PGDATAttack):
    """An attack that takes a mask and forgets it."""

    def generate(self, x, y=None, mask=None, **kwargs):
        return super().generate(x, y)


class Awake(PGDATAttack):
    """An attack that leaves the network in another mode."""

    def generate(self, x, y=None, **kwargs):
        self.estimator.model.train()
        return super().generate(x, y, **kwargs)


class Hidden(PGDATAttack):
    """An attack with an option that ART cannot see."""

    def __init__(self, estimator, hidden=1, **options):
        super().__init__(estimator, **options)


class Swallows(PGDATTrainer):
    """A trainer that takes any keyword."""

    def fit(self, x, y, nb_epochs=1, **options):
        super().fit(x, y, nb_epochs=nb_epochs, batch_size=options.get("batch_size", 4))


class Global(PGDATTrainer):
    """A trainer that draws from torch's global generator."""

    def fit(self, x, y, **options):
        torch.rand(1)
        super().fit(x, y, **options)


class Counts(ConfidenceDetector):
    """A detector that answers in numbers."""

    def detect(self, x, batch_size=128, **kwargs):
        report, rejected = super().detect(x, batch_size, **kwargs)
        return report, rejected.astype(int)


@pytest.mark.parametrize(
    ("check", "kind", "words"),
    [
        (check_attack, Doubles, "float64"),
        (check_attack, TooFar, "eps is 0.1"),
        (check_attack, Unmasked, "outside the mask"),
        (check_attack, Awake, "does not restore the mode"),
        (check_attack, Hidden, "takes hidden"),
        (check_attack, PGDATTrainer, "no EvasionAttack"),
        (check_trainer, Swallows, r"fit\(nb_epoch=\) is not refused"),
        (check_trainer, Global, "torch's global generator"),
        (check_detector, Counts, "bool"),
    ],
)
def test_a_class_that_breaks_the_contract_is_told_in_one_line(check, kind, words):
    with pytest.raises(AssertionError, match=words) as caught:
        check(kind)
    assert "\n" not in str(caught.value)
