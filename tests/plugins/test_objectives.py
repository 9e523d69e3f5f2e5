"""Every attack takes an objective, those of the defence's criterion and detectors included, or says why it has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from tiny import FACTS, data, plain_network
from torch import nn

import art_ext_attacks
import art_ext_baselines
from art_ext.api import ConfigError, EvaluationContext, Facts, Keys, Plan, cw, objectives_for
from art_ext.engine.net import Net
from art_ext_ccat import CCAT
from art_ext_mmc import MMC
from art_ext_pc_lc import PCLC
from art_ext_rce import RCE

ENTRIES = {entry.name: entry for entry in (*art_ext_attacks.ATTACKS, *art_ext_baselines.attacks.ATTACKS)}
WITH = {name: entry for name, entry in ENTRIES.items() if "objective" in entry.options.model_fields}
FEW = {"steps": 4, "queries": 30, "samples": 8, "restarts": 1}
PAGE = Path(art_ext_attacks.__file__).parent / "README.md"


def names(objectives):
    return [objective.name for objective in objectives]


def test_objectives_are_found_by_the_names_of_a_plan():
    plan = Plan.of((PCLC(),), FACTS)
    declared = plan.compose().criterion.adversaries
    assert names(objectives_for("criterion", plan)) == names(declared)
    assert [objectives_for(one.name, plan)[0].name for one in declared] == names(declared)
    assert objectives_for("margin", plan) == (cw,)
    for wrong, said in (("margn", "did you mean margin"), ("pc_trm", "did you mean pc_term"), ("detector", "rejects")):
        with pytest.raises(ConfigError, match=said):
            objectives_for(wrong, plan)
    with pytest.raises(ConfigError, match="unknown objective 'pc_term'"):
        objectives_for("pc_term", Plan(FACTS))


def test_a_detectors_objectives_go_on_after_success():
    plan = Plan.of((CCAT(),), FACTS)
    found = objectives_for("detector", plan)
    assert names(found) == names(one for item in plan.compose().detectors for one in item.adversaries)
    net, (x, y) = Net(plain_network(3)), data()
    wrong = net(x).logits.argmax(1) != y
    assert bool(wrong.any())
    for objective in found:
        score = objective.bind(net, x, y)
        assert not bool(score.wrong(net(x)).any())
        assert bool((score.value(net(x)) <= 1).all())


def test_attacks_without_an_objective_say_why():
    text = PAGE.read_text()
    for name in set(ENTRIES) - set(WITH):
        assert f"`{name}`:" in text.split("## Objectives")[1], name
    assert {"fgsm", "bim", "mim", "pgd", "apgd", "square", "spsa", "ilcm", "frames", "transfer"} <= set(WITH)


@pytest.mark.parametrize("name", sorted(set(WITH) - {"transfer"}))
def test_each_attack_raises_what_the_defence_declares(name):
    """On plans of a criterion, of features and of detectors; a misspelt name is refused before any work."""
    entry = WITH[name]
    x, y = data(6)
    for ingredients, classes in (((PCLC(),), 4), ((MMC(dim=64),), 4), ((RCE(),), 4)):
        facts = Facts(classes, (1, 6, 6))
        plan = Plan.of(ingredients, facts)
        declared = plan.compose().criterion.adversaries
        context = EvaluationContext(plan, "linf", 0.1, (0.0, 1.0))
        module = plan.operate(plain_network(classes).eval())
        for asked in ("criterion", *(["detector"] if plan.compose().detectors else [])):
            expected = declared if asked == "criterion" else objectives_for("detector", plan)
            if name == "ilcm" and not all(objective.targetable for objective in expected):
                with pytest.raises(ConfigError, match="has no targeted form"):
                    build(entry, context, asked)
                continue
            attacks = build(entry, context, asked)
            assert len(attacks) == len(expected)
            for attack, objective in zip(attacks.values(), expected, strict=True):
                assert attack.objective.name == objective.name
                head = find_features(module) if "features" in objective.needs else None
                net = Net(module, None, None, head, objective.needs)
                with net.offering_features():
                    score = attack.objective.bind(net, x, y)
                    made = attack.craft(net, x, score, Keys(0, 0, torch.arange(len(x))))
                assert made.x.shape == x.shape
                assert bool(made.x.isfinite().all())
    with pytest.raises(ConfigError, match="unknown objective 'margn'; did you mean margin"):
        build(entry, context, "margn")


def find_features(module):
    from art_ext.api import find_head

    return find_head(module, Facts(4, (1, 6, 6)))[1]


def build(entry, context, objective):
    known = {option: value for option, value in FEW.items() if option in entry.options.model_fields}
    return dict(entry.build(entry.options(objective=objective, **known), context))


def classifier(module):
    return PyTorchClassifier(module, nn.CrossEntropyLoss(), (1, 6, 6), 3, clip_values=(0, 1), device_type="cpu")


def test_an_art_attack_raises_the_objective_that_it_is_given():
    """FGSM's step is the sign of that objective's gradient: of the difference of logits ratio, in closed form."""
    weight = torch.randn(3, 36, generator=torch.Generator().manual_seed(0))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    linear[1].weight.data = weight
    x, _ = data(8)
    z = linear(x)
    y = z.argmax(1)
    made = art_ext_baselines.FGSMAttack(classifier(linear), eps=0.01, objective="dlr").generate(x.numpy(), y.numpy())
    order = z.argsort(1, descending=True)
    first, second, third = (z.gather(1, order[:, i : i + 1]) for i in range(3))
    rows = [weight[order[:, i]] for i in range(3)]
    gap, whole = first - second, first - third
    slope = -((rows[0] - rows[1]) * whole - gap * (rows[0] - rows[2])) / whole**2
    expected = (x + 0.01 * slope.sign().reshape(x.shape)).clamp(0, 1)
    torch.testing.assert_close(torch.tensor(made), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["SquareAttack", "SPSAAttack", "APGDAttack", "ILCMAttack", "FramesAttack"])
def test_art_attacks_know_the_objectives_of_what_trained_the_classifier(kind):
    attack = getattr(art_ext_attacks, kind)
    net = classifier(plain_network(3))
    facts = Facts(3, (1, 6, 6))
    with pytest.raises(ConfigError, match="unknown objective 'margn'; did you mean margin"):
        attack(net, objective="margn")
    with pytest.raises(ConfigError, match="unknown objective 'pc_term'"):
        attack(net, objective="pc_term")
    if kind != "ILCMAttack":
        knowing = attack(net, objective="criterion", ingredients=[PCLC()])
        assert knowing.attack(facts).objective.name == Plan.of((PCLC(),), facts).compose().criterion.adversaries[0].name
    known = attack(net, objective="margin")
    assert known.attack(facts).objective is cw
    with pytest.raises(ConfigError, match="did you mean margin"):
        known.set_params(objective="margn")
    assert known.objective == "margin"
    assert known.attack(facts).objective is cw


def test_the_black_box_goes_for_the_objective():
    """Square on the confidence of a wrong class finds surer mistakes than on the margin, which stops at the first."""
    torch.manual_seed(0)
    net, (x, y) = plain_network(3), data(24)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    sure = {}
    for objective in ("margin", "other_confidence"):
        attack = art_ext_attacks.SquareAttack(classifier(net), eps=0.3, queries=200, objective=objective)
        p = net(torch.tensor(attack.generate(x.numpy(), y.numpy()))).softmax(1)
        sure[objective] = p.scatter(1, y[:, None], 0).amax(1)
    assert bool((sure["other_confidence"] >= sure["margin"] - 1e-6).all())
    assert float((sure["other_confidence"] - sure["margin"]).mean().detach()) > 0.02


def test_what_an_attack_alone_knows_is_named_and_what_aims_at_nothing_says_so():
    victim, (x, y) = classifier(plain_network(3)), data(4)
    with pytest.raises(ConfigError, match="unknown objective 'targetd_dlr'; did you mean targeted_dlr"):
        art_ext_attacks.APGDAttack(victim, eps=0.1, objective="targetd_dlr").generate(x.numpy(), y.numpy())
    with pytest.raises(ConfigError, match="a corruption aims at no class; leave targeted out"):
        art_ext_attacks.CorruptionAttack(victim, kind="fog", targeted=True).generate(x.numpy(), y.numpy())


def test_a_recipes_objective_is_left_out_for_networks_of_other_methods():
    """The undefended twin and the methods beside declare none of that name; a misspelt one is refused in time."""
    from art_ext.evaluation.asked import asked_attacks
    from art_ext.host.job import prepare
    from art_ext.host.recipe import load_recipe

    asked = "evaluate=[{square: {objective: pc_term, queries: 50}}, {pgd: {steps: 3}}]"
    job = prepare(load_recipe("digits/pc_lc_pgd_at", [asked]))
    assert [name for name, _ in job.attacks(job.plan(job.ingredients))] == ["square_pc_term", "pgd3"]
    assert [name for name, _ in job.attacks(job.plan(()))] == ["pgd3"]
    notes: list[str] = []
    context = EvaluationContext(job.plan(()), job.threat.norm, job.threat.eps, job.threat.clip)
    found = asked_attacks(job.recipe.attacks(job.catalogue), context, notes)
    assert [planned.name for planned in found] == ["pgd3"]
    assert "attack square did not run: unknown objective 'pc_term'" in notes[0]
    with pytest.raises(ConfigError, match="did you mean pc_term"):
        prepare(load_recipe("digits/pc_lc_pgd_at", [asked.replace("pc_term", "pc_trm")]))
