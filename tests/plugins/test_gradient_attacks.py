"""FGSM, BIM, MIM, PGD and the CW margin: as evaluation entries, as ART attacks; the baselines' ART trainers."""


import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from pydantic import ValidationError
from tiny import FACTS, data
from torch import nn

import art_ext_baselines as baselines
from art_ext.api import ConfigError, EvaluationContext, Keys, Outputs, Plan, ce, cw
from art_ext.host.sections import Threat
from art_ext_baselines.attacks import ATTACKS
from art_ext_baselines.gradient_attacks import BIM, FGSM, MIM, CWMargin, PlainPGD

ENTRIES = {entry.name: entry for entry in ATTACKS}
CONTEXT = EvaluationContext(Plan(FACTS), "linf", 0.1, (0.0, 1.0))
EPS = 0.1


def built(name, **options):
    entry = ENTRIES[name]
    return dict(entry.build(entry.options(**options), CONTEXT))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    x, y = data(48)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    return classifier(module), x.numpy(), y.numpy()


def classifier(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    return PyTorchClassifier(
        module, loss=nn.CrossEntropyLoss(), input_shape=(1, 6, 6), nb_classes=3, optimizer=optimizer, clip_values=(0, 1)
    )


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim"])
def test_attacks_from_the_image_itself_do_not_raise_what_is_flat_there(name):
    with pytest.raises(ConfigError, match="kl_to_clean has no gradient at the image itself"):
        built(name, objective="kl_to_clean")
    assert built("pgd", objective="kl_to_clean")


@pytest.mark.parametrize("eps", [0.1, 0.999, 2.5])
def test_a_radius_in_l0_is_a_number_of_pixels(eps):
    """A part of a pixel would change a whole one: more than the radius says."""
    for make in (lambda: FGSM(norm="l0", eps=eps), lambda: built("pgd", norm="l0", eps=eps)):
        with pytest.raises(ConfigError, match=r"eps counts pixels in l0, so it is a whole number from 1 on, not"):
            make()
    with pytest.raises(ValidationError, match="counts pixels"):
        Threat(norm="l0", eps=eps)
    assert Threat(norm="l0", eps=3).eps == FGSM(norm="l0", eps=3).eps == 3
    with pytest.raises(ConfigError, match="counts pixels"):  # the threat's radius, which is one of linf
        built("cw_margin", norm="l0")


def test_entries_are_named_by_their_steps_and_take_the_threat():
    assert list(built("fgsm")) == ["fgsm"]
    assert list(built("bim", steps=7)) == ["bim7"]
    assert list(built("mim")) == ["mim10"]
    ((name, attack),) = built("cw_margin", restarts=3).items()
    assert name == "cw_margin20x3"
    assert (attack.objective, attack.restarts, attack.keep) == (cw, 3, "best")
    for entry in ("fgsm", "bim", "mim", "cw_margin"):
        (attack,) = built(entry).values()
        assert (attack.norm.name, attack.norm.eps) == ("linf", 0.1)
        (attack,) = built(entry, norm="l2", eps=0.5).values()
        assert (attack.norm.name, attack.norm.eps) == ("l2", 0.5)
        with pytest.raises(ValidationError, match="epsilon"):
            ENTRIES[entry].options(epsilon=0.1)
        with pytest.raises(ValidationError):
            ENTRIES[entry].options(eps=-0.1)


def test_fgsm_is_one_step_of_eps_from_the_image():
    x, y = data(6)
    w = torch.randn(36, 3, generator=torch.Generator().manual_seed(0)) * (torch.rand(36, 1) > 0.2)
    adv = FGSM(eps=EPS).pgd((0, 1), ce).craft(
        lambda z: Outputs(z.flatten(1) @ w), x, ce.bind(None, x, y), Keys(0, 0, torch.arange(6))
    )
    p = (x.flatten(1) @ w).softmax(1) - F.one_hot(y, 3)
    expected = (x + EPS * (p @ w.T).sign().reshape(x.shape)).clamp(0, 1)
    assert torch.allclose(adv.x, expected, atol=1e-6)


def test_bim_and_mim_are_the_loops_of_their_papers():
    x, y = (part[:6].double() if part.is_floating_point() else part[:6] for part in data())
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for kind, mu in ((BIM, 0.0), (MIM, 1.0)):
        adv, velocity = x, torch.zeros_like(x)
        for _ in range(10):
            adv = adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(module(adv), y, reduction="sum"), adv)
            velocity = mu * velocity + grad / grad.abs().sum((1, 2, 3), keepdim=True)
            adv = (adv.detach() + EPS / 10 * velocity.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
        pgd = kind(eps=EPS).pgd((0.0, 1.0), ce)
        made = pgd.craft(lambda z: Outputs(module(z)), x, ce.bind(None, x, y), Keys(0, 0, torch.arange(6))).x
        assert torch.allclose(made, adv, atol=1e-12)


@pytest.mark.parametrize("name", ["FGSMAttack", "BIMAttack", "MIMAttack", "PGDAttack", "CWMarginAttack", "FATAttack"])
def test_art_attacks_lower_accuracy_and_reach_targets(name, trained):
    art, x, y = trained
    made = getattr(baselines, name)(art, eps=EPS).generate(x, y)
    clean, robust = ((art.predict(z).argmax(1) == y).mean() for z in (x, made))
    assert robust < clean
    goal = (y + 1) % 3
    reached = getattr(baselines, name)(art, eps=0.3, targeted=True).generate(x, goal)
    assert (art.predict(reached).argmax(1) == goal).mean() > (art.predict(x).argmax(1) == goal).mean()


def test_ours_are_at_least_as_strong_as_arts(trained):
    art, x, y = trained

    def accuracy(made):
        return (art.predict(made).argmax(1) == y).mean()

    theirs = accuracy(FastGradientMethod(art, eps=EPS).generate(x, y))
    assert accuracy(baselines.FGSMAttack(art, eps=EPS).generate(x, y)) <= theirs
    pgd = ProjectedGradientDescent(art, eps=EPS, eps_step=EPS / 8, max_iter=20, num_random_init=1, verbose=False)
    assert accuracy(baselines.PGDAttack(art, eps=EPS, steps=20).generate(x, y)) <= accuracy(pgd.generate(x, y)) + 0.03


def test_the_margin_works_where_cross_entropy_saturates():
    """Logit gaps of 400: CE has no float32 gradient left, the margin has."""
    x, _ = data(6)
    w = torch.eye(3).repeat(12, 1) * 4000
    out = lambda z: Outputs(z.flatten(1) @ w)  # noqa: E731
    goal = out(x).logits.argmax(1)
    keys = Keys(0, 0, torch.arange(6))
    moved = {}
    for kind in (FGSM, CWMargin):
        attack = kind(eps=EPS)
        pgd = attack.pgd((0.0, 1.0), attack.strongest(Plan(FACTS)))
        moved[kind] = pgd.craft(out, x, pgd.objective.bind(None, x, goal), keys).delta.abs().amax((1, 2, 3))
    assert float(moved[FGSM].min()) == 0
    assert float(moved[CWMargin].min()) > 0.05


def test_awp_trainer_goes_around_a_base_of_choice():
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    art = classifier(module)
    trainer = baselines.AWPTrainer(art, baselines.TRADES(eps=EPS), gamma=0.005, track=False)
    assert [i.name for i in trainer.ingredients] == ["trades", "awp"]
    with pytest.raises(ConfigError, match="unknown option of awp 'eps'"):
        baselines.AWPTrainer(art, baselines.TRADES(), eps=EPS)


def test_arts_positional_arguments():
    art = classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    attack = FastGradientMethod(art, eps=EPS)
    assert baselines.MARTTrainer(art, attack, 3.0, track=False).ingredients[0].beta == 3
    assert baselines.FastATTrainer(art, 0.2, track=False).ingredients[0].eps == 0.2
    with pytest.raises(ConfigError, match="fat stops PGD early, but the attack is ART's FastGradientMethod"):
        baselines.FATTrainer(art, attack=attack, track=False).fit(*(part.numpy() for part in data()), nb_epochs=1)


def test_attacks_refuse_impossible_options():
    for kind, option in ((BIM, {"steps": 0}), (MIM, {"momentum": -1}), (PlainPGD, {"restarts": 0}), (FGSM, {"eps": 0})):
        with pytest.raises(ConfigError, match=f"{kind.name}\\.{next(iter(option))}"):
            kind(**option)
