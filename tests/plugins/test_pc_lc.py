"""PC-LC against the reference vectors, and the edges its sheet warns of."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_ext.api import ComposeError, ConfigError, CrossEntropy, Facts, Ingredient, Outputs, Plan, Target, cw
from art_ext.host.job import prepare
from art_ext.host.recipe import Recipe, load_recipe
from art_ext_baselines import PGDAT
from art_ext_pc_lc import PCLC, PCLCLoss, PCLCTrainer, logit_constraint, pc_loss, pc_term

FILE = Path(__file__).parents[1] / "vectors" / "pclc.json"
VECTORS = [entry for entry in json.loads(FILE.read_text()) if not entry["name"].startswith("gce")]
BATCHES = [entry for entry in VECTORS if "labels" in entry["inputs"]]
FACTS = Facts(10, (1, 8, 8))
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def check(entry, got, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    if got.dtype == torch.float32:
        torch.testing.assert_close(got.double(), expected, **entry["tolerance_float32"])
    else:
        assert (got - expected).abs().max() <= entry["tolerance"] * (1 + expected.abs().max())


def forms(entry, dtype):
    """name to (value, leaf) of each form, from the public functions."""
    given = entry["inputs"]
    y, xi, lam = torch.tensor(given["labels"]), given["margin"], given["lam"]

    def leaf():
        return torch.tensor(given["logits"], dtype=dtype, requires_grad=True)

    def total(**options):
        z = leaf()
        return PCLCLoss(xi, lam, **options)(Outputs(z), y).mean(), z

    z1, z2, z3, z4 = leaf(), leaf(), leaf(), leaf()
    return {
        "pc_sum_form": (pc_loss(z1, y, xi).mean(), z1),
        "pc_normalised": (pc_loss(z2, y, xi).mean() / (z2.shape[1] - 1), z2),
        "lc_soft": (logit_constraint(z3, y).mean(), z3),
        "lc_hard": (logit_constraint(z4, y, hard=True).mean(), z4),
        "total_normalised": total(),
        "total_sum_form_hard": total(reduction="sum", hard=True),
    }


@both_precisions
@pytest.mark.parametrize("entry", BATCHES, ids=lambda entry: entry["name"])
def test_values_and_gradients_reproduce_the_reference(entry, dtype):
    expected, seen = entry["expected"], 0
    for name, (value, leaf) in forms(entry, dtype).items():
        check(entry, value.detach(), expected[name])
        if expected.get(f"grad_{name}") is not None:
            check(entry, torch.autograd.grad(value, leaf)[0], expected[f"grad_{name}"])
            seen += 1
    assert seen == 3


@both_precisions
def test_eq_7_a_single_pair(dtype):
    """The gradient of one active hinge with respect to the true logit; with three classes, the other is inactive."""
    (entry,) = (entry for entry in VECTORS if entry["name"] == "pclc_eq7_single_pair")
    z = torch.tensor([entry["inputs"]["logits"]], dtype=dtype, requires_grad=True)
    y, j = torch.tensor([entry["inputs"]["label"]]), entry["inputs"]["j"]
    p = F.softmax(z.detach(), 1)[0]
    # A margin at which j's hinge is active and the other false class's is not.
    other = ({0, 1, 2} - {int(y), j}).pop()
    xi = float((2 * p[0] - p[j] - p[other]) / 2)
    assert p[j] + xi - p[0] > 0 > p[other] + xi - p[0]
    (grad,) = torch.autograd.grad(pc_loss(z, y, xi).sum(), z)
    check(entry, grad[0, int(y)], entry["expected"]["value"])


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    z = (3 * torch.randn(5, 6, dtype=torch.float64)).requires_grad_()
    y = torch.tensor([0, 5, 2, 3, 1])
    for loss in (PCLCLoss(0.8), PCLCLoss(0.5, 0.3, "sum"), PCLCLoss(hard=True)):
        assert torch.autograd.gradcheck(lambda logits, loss=loss: loss(Outputs(logits), y), (z,))


def test_values_are_per_example():
    torch.manual_seed(0)
    z, y = torch.randn(7, 5, dtype=torch.float64), torch.arange(7) % 5
    whole = PCLCLoss()(Outputs(z), y)
    assert whole.shape == (7,)
    for i in range(7):
        torch.testing.assert_close(PCLCLoss()(Outputs(z[i : i + 1]), y[i : i + 1]), whole[i : i + 1])


def test_with_all_hinges_active_pc_is_linear_in_the_true_probability():
    z = torch.zeros(1, 5, dtype=torch.float64)
    # 1 + (K - 1) xi - K p_y at p = 1/K.
    assert pc_loss(z, torch.tensor([2]), 0.995).item() == pytest.approx(1 + 4 * 0.995 - 1)


def test_two_classes_have_one_false_class():
    z, y = torch.tensor([[2.0, 0.5], [0.1, 0.4]]), torch.tensor([0, 0])
    expected = torch.tensor([1.5, 0.0])
    torch.testing.assert_close(logit_constraint(z, y), expected)
    torch.testing.assert_close(logit_constraint(z, y, hard=True), expected)
    p = F.softmax(z, 1)
    torch.testing.assert_close(pc_loss(z, y, 0.9), (p[:, 1] + 0.9 - p[:, 0]).relu())


def test_false_logits_far_below_weigh_only_themselves():
    """The authors' mask of -1000 would give the true class all the weight here."""
    z = torch.tensor([[5.0, -2000.0, -2001.0]], dtype=torch.float64, requires_grad=True)
    value = logit_constraint(z, torch.tensor([0]))
    w = F.softmax(torch.tensor([-2000.0, -2001.0], dtype=torch.float64), 0)
    assert value.item() == pytest.approx(float(w[0] * 2005 + w[1] * 2006))
    assert torch.isfinite(torch.autograd.grad(value.sum(), z)[0]).all()


@pytest.mark.parametrize("logits", [[[200.0, 0.0, -200.0]], [[-200.0, 0.0, 200.0]], [[0.0, 0.0, 0.0]]])
def test_saturated_and_tied_logits_have_finite_gradients(logits):
    z = torch.tensor(logits, requires_grad=True)
    value = PCLCLoss()(Outputs(z), torch.tensor([0]))
    (grad,) = torch.autograd.grad(value.sum(), z)
    assert torch.isfinite(value).all()
    assert torch.isfinite(grad).all()


def test_half_precision_logits_are_judged_in_float32():
    z = torch.tensor([[9.0, 1.0, 0.0]], dtype=torch.float64)
    exact = pc_loss(z, torch.tensor([0]), 0.995)
    got = pc_loss(z.to(torch.bfloat16), torch.tensor([0]), 0.995)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=1e-6)


def test_labels_out_of_range_raise():
    with pytest.raises((RuntimeError, IndexError)):
        pc_loss(torch.zeros(1, 3), torch.tensor([3]), 0.9)


def test_the_plan_is_cross_entropy_first_then_a_fresh_start():
    plan = Plan.of([PCLC(warmup_epochs=3, xi=0.9, lam=0.1, reduction="sum", hard=True)], FACTS)
    assert isinstance(plan.compose(2).criterion, CrossEntropy)
    assert plan.compose(3).criterion == PCLCLoss(0.9, 0.1, "sum", True)
    assert plan.phases[0].reset_optimizer
    assert plan.warmup_epochs() == 3
    assert Plan.of([PCLC(warmup_epochs=0)], FACTS).phases == ()


def test_it_names_its_adversary():
    margin, pc, probability, loss = PCLCLoss(0.9).adversaries
    shown = torch.tensor([[1.0, 2.0, 0.5], [3.0, 1.0, 1.0]]), torch.tensor([0, 0])
    p = shown[0].softmax(1)
    torch.testing.assert_close(probability.measure(Outputs(shown[0]), shown[1]), p[:, 1] - p[:, 0])
    torch.testing.assert_close(loss.measure(Outputs(shown[0]), shown[1]), PCLCLoss(0.9)(Outputs(shown[0]), shown[1]))
    assert margin is cw
    assert pc.name == "pc_term"
    z, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    score = pc.bind(lambda x: Outputs(x), z, y)
    assert torch.equal(score.value(Outputs(z)), pc_loss(z, y, 0.9))
    assert pc_term(0.9).name == "pc_term"


def test_the_pc_term_never_pushes_the_true_logit_up():
    """The reason why PC + lam LC is its last adversary: the gradient of LC does, once the true class is safe."""
    z = torch.tensor([[8.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0])
    (pc,) = torch.autograd.grad(pc_loss(z, y, 0.995).sum(), z)
    (both,) = torch.autograd.grad(PCLCLoss(0.995, 0.05)(Outputs(z), y).sum(), z)
    assert pc[0, 0] <= 0 < both[0, 0]


class Soft(Target):
    gives_distributions = True


class Soften(Ingredient):
    name = "soften"

    def apply(self, plan):
        return plan.fill(self, target=Soft())


def test_it_needs_one_true_class():
    with pytest.raises(ComposeError, match="pc_lc needs one true class per example, but soften supplies"):
        Plan.of([PCLC(), Soften()], FACTS)


def test_it_combines_with_adversarial_training():
    plan = Plan.of([PCLC(warmup_epochs=1), PGDAT(eps=0.1, clean_fraction=0.5)], FACTS)
    parts = plan.compose()
    assert (parts.criterion, plan.owner("attack"), plan.owner("criterion")) == (PCLCLoss(), "pgd_at", "pc_lc")


@pytest.mark.parametrize(
    "options",
    [{"xi": 0}, {"xi": 1.01}, {"xi": "1/0"}, {"lam": -0.1}, {"warmup_epochs": -1}, {"warmup_epochs": True},
     {"warmup_epochs": 1.5}, {"reduction": "max"}],
)  # fmt: skip
def test_impossible_options(options):
    with pytest.raises(ConfigError, match=f"pc_lc.{next(iter(options))}: "):
        PCLC(**options)


def test_one_class_has_no_false_one():
    with pytest.raises(ConfigError, match="pc_lc needs two classes or more, got 1"):
        Plan.of([PCLC()], Facts(1, (1, 6, 6)))


@pytest.mark.parametrize("overrides", [("train.epochs=15",), ("pc_lc.warmup_epochs=40",)])
def test_a_recipe_that_would_train_with_cross_entropy_alone_is_refused_before_the_data(overrides, monkeypatch):
    monkeypatch.setattr(Recipe, "open_data", lambda *_: pytest.fail("the data were opened"))
    with pytest.raises(ConfigError, match=r"pc_lc warms up for \d+ epochs and train.epochs is \d+, .* set train"):
        prepare(load_recipe("digits/pc_lc", overrides))


def test_arts_trainer_refuses_it_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    target = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))
    x, y = torch.rand(20, 1, 8, 8).numpy(), torch.arange(20).numpy() % 10
    with pytest.raises(ConfigError, match=r"pc_lc warms up for 150 epochs and nb_epochs is 3, .* set nb_epochs above"):
        PCLCTrainer(target, track=False, verbose=False).fit(x, y, nb_epochs=3)
    trainer = PCLCTrainer(target, warmup_epochs=1, track=False, verbose=False)
    trainer.fit(x, y, nb_epochs=2)
    assert len(trainer.history.epochs) == 2
