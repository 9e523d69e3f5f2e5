"""Plugins that raise, hang, give the wrong things or change what they are given: named, and the tool goes on."""

from __future__ import annotations

import time
from types import ModuleType, SimpleNamespace

import pytest
import torch
from pydantic import BaseModel

from art_ext.api import PGD, Adversarial, Criterion, CrossEntropy, Facts, Ingredient, Linf, Paper, Plan
from art_ext.data.batches import ArrayBatches
from art_ext.data.entry import DatasetEntry
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.observe import Observer, RunInfo
from art_ext.engine.run import Run, RunSettings
from art_ext.entries import AttackEntry, ModelEntry
from art_ext.errors import ConfigError, PartError
from art_ext.host.hookspecs import hookimpl
from art_ext.host.manager import PluginManager
from art_ext.parts.risks import Madry
from art_ext.parts.targets import Target

FACTS = Facts(3, (1, 4, 4))


def plugin(**hooks):
    module = ModuleType("fake_plugin")
    for name, function in hooks.items():
        setattr(module, f"art_ext_{name}", hookimpl(function))
    return module


class Fine(Ingredient):
    name = "fine"
    paper = Paper("A Title", "An Author", "A Venue", 2020)

    def apply(self, plan):
        return plan


# ------------------------------------------------------------------------------ hangs at import


class Hanging:
    """An entry point whose import does not end, and whose code catches what it can."""

    def __call__(self):
        while True:
            try:
                time.sleep(30)
            except Exception:
                continue


def test_a_plugin_that_hangs_at_import_is_named_and_the_others_load(monkeypatch):
    from art_ext.host import manager as module

    monkeypatch.setenv("ART_EXT_PLUGIN_SECONDS", "0.3")
    manager = PluginManager()
    records = [
        module._Record("stuck", "stuck-dist", "1.0", Hanging()),
        module._Record("good", "good-dist", "1.0", lambda: plugin(ingredients=lambda: [Fine])),
    ]
    began = time.perf_counter()
    manager._add(records)
    assert time.perf_counter() - began < 5
    (broken,) = manager.broken
    assert "plugin stuck (stuck-dist 1.0) is broken: its import took longer than 0.3 s" in str(broken)
    assert list(manager.catalogue.ingredients) == ["fine"]


def test_a_hook_that_hangs_is_named(monkeypatch):
    monkeypatch.setenv("ART_EXT_PLUGIN_SECONDS", "0.3")
    hangs = plugin(ingredients=lambda: Hanging()())
    manager = PluginManager.isolated({"stuck": hangs, "good": plugin(ingredients=lambda: [Fine])})
    assert list(manager.catalogue.ingredients) == ["fine"]
    assert "art_ext_ingredients took longer than 0.3 s" in manager.broken[0].cause


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_a_limit_that_is_none_is_said(monkeypatch, text):
    monkeypatch.setenv("ART_EXT_PLUGIN_SECONDS", text)
    manager = PluginManager.isolated({"good": plugin(ingredients=lambda: [Fine])})
    assert "ART_EXT_PLUGIN_SECONDS" in manager.broken[0].cause


# ---------------------------------------------------------------------- entries that fail or lie


class Options(BaseModel):
    pass


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda *_: 1 / 0, r"of plugin odd failed \(ZeroDivisionError: division by zero\)"),
        (lambda *_: 5, r"of plugin odd gave a int"),
    ],
)
def test_what_a_plugin_offers_is_named_when_it_fails_or_gives_something_else(function, said):
    odd = plugin(
        models=lambda: [ModelEntry("net", "", function)],
        datasets=lambda: [DatasetEntry("scans", "", function)],
        attacks=lambda: [AttackEntry("push", "", Options, function)],
    )
    catalogue = PluginManager.isolated({"odd": odd}).catalogue
    with pytest.raises(PartError, match=f"the model net {said}"):
        catalogue.model("net").build({}, FACTS)
    with pytest.raises(PartError, match=f"the data set scans {said}"):
        catalogue.dataset("scans").open()
    with pytest.raises(PartError, match=f"the attack push {said}"):
        catalogue.attack("push").build(Options(), None)


def test_an_error_of_ours_passes_as_it_is():
    def refuses(*_):
        raise ConfigError("depth is 3; it is even")

    catalogue = PluginManager.isolated({"odd": plugin(models=lambda: [ModelEntry("net", "", refuses)])}).catalogue
    with pytest.raises(ConfigError, match=r"^depth is 3; it is even$"):
        catalogue.model("net").build({}, FACTS)


def test_an_observer_that_fails_is_left_out_and_the_run_goes_on():
    class Bell(Observer):
        rung = 0

        def tick(self, tick):
            Bell.rung += 1
            raise RuntimeError("no\nbell")

    manager = PluginManager.isolated({"bells": plugin(observers=lambda run: [Bell()])})
    (observer,) = manager.observers(RunInfo("run"))
    observer.run_start(RunInfo("run"))
    with pytest.warns(UserWarning, match=r"the observer Bell of plugin bells failed in tick \(RuntimeError: no bell\)"):
        observer.tick(None)
    observer.tick(None)
    assert Bell.rung == 1


def test_an_ingredient_that_fails_or_gives_no_plan_is_named():
    class Raises(Fine):
        name = "raises"

        def apply(self, plan):
            raise KeyError("depth")

    class Forgets(Fine):
        name = "forgets"

        def apply(self, plan):
            return None

    with pytest.raises(PartError, match=r"raises failed in apply \(KeyError: 'depth'\)"):
        Plan.of([Raises()], FACTS)
    with pytest.raises(PartError, match="forgets gave a NoneType from apply"):
        Plan.of([Forgets()], FACTS)


# ---------------------------------------------------------------------------- parts in a first step


def trained(**parts):
    """One epoch of two batches with these parts, which an ingredient called odd fills."""
    by = SimpleNamespace(name="odd")
    filled = {"attack": PGD(Linf(0.1), 2), "risk": Madry(), **parts}
    plan = Plan(FACTS).fill(by, **filled)
    run = Run(RunSettings(accelerator="cpu"), seed=0)
    net = Net(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    Fit(plan, net, optimizer, run, epochs=1)(ArrayBatches(x, y, 6, 0, run.device))


class Means(CrossEntropy):
    def __call__(self, out, target):
        return super().__call__(out, target).mean()


class Raises(CrossEntropy):
    def __call__(self, out, target):
        raise ValueError("no\nloss")


class Counts(Target):
    def __call__(self, y, k, delta):
        return torch.zeros(len(y), k + 1)


class PushesInPlace(PGD):
    def craft(self, net, x, score, keys, mask=None):
        x.data.add_(0.01)
        return super().craft(net, x, score, keys, mask)


class Crops(PGD):
    def craft(self, net, x, score, keys, mask=None):
        return Adversarial(x[:, :, 1:], x[:, :, 1:])


class Overflows(PGD):
    def craft(self, net, x, score, keys, mask=None):
        return Adversarial(x + 2, torch.full_like(x, 2))


class Clips(CrossEntropy):
    def __call__(self, out, target):
        losses = super().__call__(out, target)
        out.logits.data.clamp_(-0.01, 0.01)
        return losses


class Sums(Madry):
    def __call__(self, views, criterion):
        return {"loss": criterion(views.adv.out, views.adv.target)}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"criterion": Means()}, r"the criterion .* of odd gave a tensor of shape \(\) for 6 rows"),
        ({"criterion": Raises()}, r"the criterion .* of odd failed \(ValueError: no loss\)"),
        ({"criterion": Clips()}, r"the criterion .* of odd changed a tensor that it was given"),
        ({"target": Counts()}, r"the target .* of odd gave a tensor of shape \(6, 4\)"),
        ({"attack": PushesInPlace(Linf(0.1), 2)}, r"the attack .* of odd changed a tensor that it was given"),
        ({"attack": Crops(Linf(0.1), 2)}, r"the attack .* of odd gave x of shape \(6, 1, 3, 4\)"),
        ({"attack": Overflows(Linf(0.1), 2)}, r"the attack .* of odd gave pixels from .* outside of 0 to 1"),
        ({"risk": Sums()}, r"the risk .* of odd gave a tensor of shape \(6,\) as 'loss'"),
    ],
)
def test_a_part_that_breaks_its_promise_is_named_at_the_first_step(parts, said):
    with pytest.raises(PartError, match=said) as raised:
        trained(**parts)
    assert "\n" not in str(raised.value)


def test_parts_are_themselves_again_after_their_first_step():
    class Quiet(Criterion):
        name = "quiet"
        calls = 0

        def __call__(self, out, target):
            assert isinstance(self, Quiet)
            Quiet.calls += 1
            return CrossEntropy()(out, target)

    criterion = Quiet()
    trained(criterion=criterion)
    assert type(criterion) is Quiet
    assert Quiet.calls == 2
