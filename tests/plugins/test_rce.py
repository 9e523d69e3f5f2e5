"""RCE: vectors, reversed logits, detectors, the attacks that know them, one training step by hand, ART."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from safetensors.torch import save_file
from tiny import plain_network
from torch import nn

import art_ext_attacks as attacks
import art_ext_rce as rce
from art_ext.api import (
    PGD,
    CarliniWagner,
    ComposeError,
    ConfigError,
    EvaluationContext,
    Facts,
    Ingredient,
    Keys,
    Linf,
    ModelError,
    Outputs,
    Plan,
    Target,
    ce,
    cw,
    evading,
    for_evaluation,
)
from art_ext.border.weights import WEIGHTS
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.run import Run, RunSettings
from art_ext.evaluation.evaluation import Evaluation, Options
from art_ext.evaluation.lineup import build_lineup
from art_ext.evaluation.record import ModelInfo
from art_ext.evaluation.rejection import eligible, roc_auc
from art_ext.evaluation.subject import Rows, Subject, adaptive_of
from art_ext.evaluation.suites import suite_named
from art_ext.evaluation.threat import Threat
from art_ext.host.beside import describe_network, keep_network
from art_ext.host.job import prepare
from art_ext.host.recipe import load_recipe
from art_ext.parts.evading import EvadingScore, label_first, shortfall
from art_ext.parts.surgery import find_head
from art_ext_baselines import PGDAT, TRADES
from art_ext_rce.ingredient import negate_head

FACTS = Facts(4, (1, 6, 6))
ENTRIES = {entry.name: entry for entry in (*attacks.art_ext_attacks(), *rce.art_ext_attacks())}
VECTORS = {e["name"]: e for e in json.loads((Path(__file__).parents[1] / "vectors" / "rce.json").read_text())}
KINDS = [(torch.float64, None), (torch.float32, "float32")]


def close(got, expected, entry, kind=None):
    expected = torch.as_tensor(expected, dtype=torch.float64).expand(got.shape)
    if kind is None:
        assert (got.double() - expected).abs().max() <= entry["tolerance"] * (1 + expected.abs().max())
    else:
        loose = entry["tolerance_float32"]
        torch.testing.assert_close(got.double(), expected, rtol=loose["rtol"], atol=loose["atol"])


def data(n=24, n_classes=4):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 6, 6, generator=generator), torch.arange(n) % n_classes


# ------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("name", ["rce_k10_n5", "rce_k3_hand"])
@pytest.mark.parametrize(("dtype", "kind"), KINDS)
def test_loss_and_scores_reproduce_the_reference(name, dtype, kind):
    entry = VECTORS[name]
    expected = entry["expected"]
    Z = torch.tensor(entry["inputs"]["logits"], dtype=dtype, requires_grad=True)
    y = torch.tensor(entry["inputs"]["labels"])
    loss = rce.rce_loss(Z, y).mean()
    close(loss.detach(), expected["loss"], entry, kind)
    close(torch.autograd.grad(loss, Z)[0], expected["grad_logits"], entry, kind)
    seen = -Z.detach()
    close(F.softmax(seen, 1), expected["test_probabilities"], entry, kind)
    assert seen.argmax(1).tolist() == expected["predicted"]
    close(torch.sigmoid(rce.log_odds(seen)), expected["confidence"], entry, kind)
    close(rce.non_max_entropy(seen), expected["non_me"], entry, kind)
    assert math.log(Z.shape[1] - 1) == pytest.approx(expected["minimum_possible_loss"])
    close(rce.RCELoss()(Outputs(seen), y).mean(), expected["loss"], entry, kind)


@pytest.mark.parametrize("name", ["kdensity_sigma2_ce", "kdensity_sigma2_rce"])
@pytest.mark.parametrize(("dtype", "kind"), KINDS)
def test_density_and_its_penalty_reproduce_the_reference(name, dtype, kind):
    entry = VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    z, predicted = torch.tensor(given["features"], dtype=dtype), torch.tensor(given["predicted"])
    bank = [torch.tensor(members, dtype=dtype) for members in given["bank"]]
    got = rce.log_k_density(z, predicted, bank, given["sigma2"])
    close(got, expected["log_density"], entry, kind)
    close(got.exp(), expected["density"], entry, kind)
    median = torch.tensor(given["median_density"], dtype=dtype).log()
    close(rce.density_penalty(got, median), expected["cw_wb_penalty"], entry, kind)


def test_the_protocol_of_the_area_is_the_reference():
    given, expected = VECTORS["auc_protocol"]["inputs"], VECTORS["auc_protocol"]["expected"]
    y, clean, adv = (torch.tensor(given[name]) for name in ("labels", "pred_clean", "pred_adv"))
    kept = eligible(clean != y, adv != y)
    assert kept.tolist() == expected["kept"]
    normal, attacked = (torch.tensor(given[name]) for name in ("score_normal", "score_adv"))
    assert roc_auc(normal[kept], attacked[kept]) == expected["auc"]


def test_the_threshold_test_is_the_reference():
    given, expected = VECTORS["threshold_test"]["inputs"], VECTORS["threshold_test"]["expected"]

    class Given(rce.NonMaxEntropy):
        def score(self, out):
            return out.logits[:, 0].double()

    detector = Given()
    detector.threshold = given["threshold"]
    scores = torch.tensor(given["scores"], dtype=torch.float64)[:, None]
    assert detector.keeps(Outputs(scores)).tolist() == expected["accepted"]


# ---------------------------------------------------------------------------------------- traps


def test_the_wanted_end_state_costs_nothing_and_has_a_gradient_of_zero():
    Z = torch.zeros(1, 10).index_fill(1, torch.tensor([3]), -1e4).requires_grad_()
    loss = rce.rce_loss(Z, torch.tensor([3])).sum()
    assert float(loss) == pytest.approx(math.log(9))
    assert torch.autograd.grad(loss, Z)[0].abs().max() < 1e-6


def test_with_two_classes_training_swaps_labels_and_non_me_is_constant():
    Z, y = torch.randn(6, 2), torch.arange(6) % 2
    torch.testing.assert_close(rce.rce_loss(Z, y), F.cross_entropy(Z, 1 - y, reduction="none"))
    scores = rce.non_max_entropy(-Z)
    assert scores.abs().max() == 0
    assert roc_auc(scores[:3], scores[3:]) == 0.5


def test_saturated_outputs_keep_their_order():
    logits = torch.tensor([[60.0, 0.0, 1.0], [200.0, 0.0, 1.0], [200.0, 5.0, 5.0]])
    assert F.softmax(logits, 1).amax(1).unique().numel() == 1
    assert rce.log_odds(logits).unique().numel() == 3
    entropy = rce.non_max_entropy(logits)
    assert torch.isfinite(entropy).all()
    assert float(entropy[2]) == pytest.approx(math.log(2))
    far = torch.full((1, 3), 1e3)
    assert torch.isfinite(rce.log_k_density(far, torch.tensor([0]), [torch.zeros(4, 3)], 0.38)).all()


def test_a_tie_for_the_first_place_leaves_one_of_the_two_out():
    assert float(rce.non_max_entropy(torch.tensor([[1.0, 1.0, 1.0]]))) == pytest.approx(math.log(2))


def test_the_smallest_gap_to_a_bank_is_not_below_zero():
    bank = [1e4 + torch.rand(50, 8)]
    assert (rce.log_k_density(bank[0], torch.zeros(50, dtype=torch.long), bank, 0.1) <= 0).all()


def test_theorem_2_bounds_the_reversed_prediction():
    L, y = 10, torch.tensor([3])
    Z = torch.zeros(1, L, dtype=torch.float64)
    Z[0, 3] = -9
    Z = Z + 1e-4 * torch.randn(1, L, dtype=torch.float64)
    label = (1 - F.one_hot(y, L).double()) / (L - 1)
    alpha = float((F.softmax(Z, 1) - label).abs().max())
    seen = F.softmax(-Z, 1)
    assert float((seen - F.one_hot(y, L)).abs().max()) <= alpha * (L - 1) ** 2
    false = seen[0, torch.arange(L) != 3]
    assert float(false.max() - false.min()) <= 2 * alpha**2 * (L - 1) ** 2


def test_the_signal_with_100_classes_grows_with_the_temperature():
    facts, y = Facts(100, (1, 6, 6)), torch.arange(8)
    plan = Plan.of([rce.RCE(train_temperature=100)], facts)
    torch.manual_seed(0)
    logits = (0.01 * torch.randn(8, 100)).requires_grad_()
    sizes = []
    for loss in (rce.RCELoss(), plan.compose().criterion):
        value = loss(Outputs(logits), y).mean()
        assert torch.isfinite(value)
        sizes.append(float(torch.autograd.grad(value, logits)[0].norm()))
    assert sizes[1] > 50 * sizes[0]


class Smooth(Ingredient):
    name = "smooth_for_test"

    def apply(self, plan):
        class Distributions(Target):
            gives_distributions = True

        return plan.fill(self, target=Distributions())


def test_what_turns_the_sign_over_is_refused_with_both_names():
    with pytest.raises(ComposeError, match=r"rce needs one true class.*smooth_for_test"):
        Plan.of([rce.RCE(), Smooth()], FACTS)
    Plan.of([TRADES(), rce.RCE()], FACTS)


@pytest.mark.parametrize(
    "fields",
    [{"sigma2": 0}, {"sigma2": "mean"}, {"per_class": 1}, {"detectors": ("kde",)}, {"train_temperature": 0},
     {"detectors": ("non_me", "non_me")}],
)
def test_impossible_options_are_refused(fields):
    with pytest.raises(ConfigError, match="rce"):
        rce.RCE(**fields)


# ------------------------------------------------------------------------------------- surgery


def test_the_network_answers_in_reversed_logits_and_features_come_before_the_sign():
    model, plan = plain_network(), Plan.of([rce.RCE()], FACTS)
    x, _ = data(3)
    before, features = model(x), model[:-1](x)
    assert plan.operate(model) is model
    torch.testing.assert_close(model(x), -before)
    assert plan.operate(model)[-1].head is model[-1].head
    assert not isinstance(model[-1].head, rce.Negate)
    net = Net(model, head=find_head(model, FACTS)[1], wanted=plan.compose().needs)
    with net.offering_features():
        torch.testing.assert_close(net(x).extras["features"], features)


def test_a_network_that_is_its_own_head_is_refused():
    with pytest.raises(ModelError, match="wrap it"):
        Plan.of([rce.RCE()], FACTS).operate(nn.Linear(6, 4))


# ----------------------------------------------------------------------------------- detectors


def outputs(n=40, d=5, n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % n_classes
    z = torch.randn(n, d, generator=generator) + 3 * F.one_hot(y, d)
    return Outputs(5 * F.one_hot(y, n_classes) + torch.rand(n, n_classes, generator=generator), {"features": z}), y


@pytest.mark.parametrize("make", [rce.KDensity, lambda: rce.KDensity("median"), rce.LID], ids=["kd", "median", "lid"])
def test_banked_detectors_are_fitted_saved_and_lower_far_away(make):
    detector, (out, y) = make(), outputs()
    with pytest.raises(ConfigError, match="not fitted"):
        detector.score(out)
    detector.fit(out, y)
    detector.calibrate(out, y, 0.9)
    clean = detector.score(out)
    far = Outputs(out.logits, {"features": torch.randn_like(out.extras["features"]) * 30})
    assert roc_auc(clean, detector.score(far)) > 0.9
    again = make()
    again.load_state_dict(detector.state_dict())
    assert torch.equal(again.score(out), clean)
    assert again.threshold == detector.threshold
    one = Outputs(out.logits[:1], {"features": out.extras["features"][:1]})
    torch.testing.assert_close(detector.score(one), clean[:1])
    with pytest.raises(ConfigError, match="did not collect"):
        detector.score(Outputs(out.logits))


def test_a_bank_is_drawn_by_true_class_and_looked_up_by_the_predicted_one():
    out, y = outputs(60)
    detector = rce.KDensity(per_class=4, seed=3)
    detector.fit(out, y)
    assert [len(members) for members in detector.bank] == [4, 4, 4]
    assert all((out.extras["features"][y == 1] == row).all(1).any() for row in detector.bank[1])
    other = rce.KDensity(per_class=4, seed=4)
    other.fit(out, y)
    assert not torch.equal(other.bank[0], detector.bank[0])
    moved = Outputs(out.logits.roll(1, 1), out.extras)
    assert not torch.allclose(detector.score(moved), detector.score(out))


def test_a_class_without_training_images_has_no_density():
    out, y = outputs()
    detector = rce.KDensity()
    rows = y != 2
    detector.fit(Outputs(out.logits[rows], {"features": out.extras["features"][rows]}), y[rows])
    assert (detector.score(out)[y == 2] == float("-inf")).all()
    assert detector.calibrate(out, y, 0.95) == float("-inf")
    value = evading(detector).bind(None, None, y).value(out)
    torch.testing.assert_close(value, ce.measure(out, y), msg="a threshold that keeps everything adds nothing")
    penalty = detector.penalty(out, torch.full_like(y, 2))
    assert penalty.isfinite().all()
    assert (penalty > 0).all(), "nothing is kept as a class without training images"


def test_a_detector_that_is_fitted_again_has_its_own_scale():
    (out, y), detector, other = outputs(), rce.KDensity(2.0), rce.KDensity(3.0)
    other.fit(out, y)
    detector.load_state_dict(other.state_dict())
    assert detector.sigma2 == 3
    detector.fit(out, y)
    assert detector.sigma2 == 2


def test_the_median_density_leaves_each_member_itself_out():
    out, y = outputs(9)
    detector = rce.KDensity(2.0)
    detector.fit(out, y)
    members = detector.bank[0]
    density = []
    for i in range(3):
        gaps = torch.stack([(members[i] - members[j]).square().sum() for j in range(3) if j != i])
        density.append(torch.exp(-gaps / 2.0).mean().log())
    torch.testing.assert_close(detector.log_medians[0], torch.stack(density).median())


def test_the_median_density_is_over_all_training_points_of_the_class():
    """Also those that are not in the bank; a member of the bank does not count itself."""
    out, y = outputs(90)
    detector = rce.KDensity(2.0, per_class=6)
    detector.fit(out, y)
    z = out.extras["features"]
    for label in range(3):
        bank, points = detector.bank[label].tolist(), z[y == label].tolist()
        assert len(points) == 30
        found = []
        for point in points:
            others = [member for member in bank if member != point]
            kernels = [math.exp(-sum((a - b) ** 2 for a, b in zip(point, m, strict=True)) / 2.0) for m in others]
            found.append(sum(kernels) / len(others))
        expected = sorted(found)[14]  # the lower of the two in the middle, as torch has it
        assert float(detector.log_medians[label]) == pytest.approx(math.log(expected), rel=1e-4)
        among_bank = sorted(density for density, point in zip(found, points, strict=True) if point in bank)[2]
        assert among_bank != pytest.approx(expected, rel=1e-3)



def test_lid_finds_the_dimension_of_a_sheet():
    generator = torch.Generator().manual_seed(0)
    sheet = torch.cat([torch.rand(2000, 2, generator=generator), torch.zeros(2000, 6)], 1)
    found = rce.local_intrinsic_dimension(sheet[:200], sheet, 50)
    assert 1.6 < float(found.median()) < 2.4
    point = torch.cat([torch.zeros(50, 8), sheet[:10]])
    few = rce.local_intrinsic_dimension(point, point, 20)
    torch.testing.assert_close(few[:50], rce.local_intrinsic_dimension(point[:1], sheet[:10], 10).expand(50))
    assert few.isfinite().all()
    assert rce.local_intrinsic_dimension(point[:3], point[:40], 20).tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="more than k = 20"):
        rce.LID().fit(*outputs(12))


def test_the_ingredient_names_its_detectors_and_their_adversaries():
    parts = Plan.of([rce.RCE(detectors=("confidence", "non_me", "k_density", "lid"))], FACTS).compose()
    assert [d.name for d in parts.detectors] == ["confidence_odds", "non_me", "k_density", "lid"]
    assert parts.needs == {"features"}
    assert all(d.adversaries for d in parts.detectors)
    assert parts.criterion.adversaries[0] is ce


# ------------------------------------------------------------------------------------- attacks


def test_label_first_rises_from_right_to_wrong_to_kept():
    ahead = torch.tensor([-5.0, -0.1, 0.1, 0.1, 0.1, 0.1])
    reward = torch.tensor([9.0, 9.0, float("-inf"), -50.0, 0.0, 50.0])
    value = label_first(ahead, reward)
    assert torch.isfinite(value).all()
    assert (value.diff() > 0).all()


def test_the_bounded_attack_adds_the_shortfall_and_wants_both():
    out, y = outputs()
    detector = rce.KDensity()
    detector.fit(out, y)
    with pytest.raises(ConfigError, match="no threshold yet"):
        shortfall(out, (detector,))
    detector.calibrate(out, y, 0.8)
    objective = evading(detector, lam=10.0)
    score = objective.bind(None, None, y)
    assert isinstance(score, EvadingScore)
    missing = (detector.score(out) - detector.threshold).clamp(max=0)
    torch.testing.assert_close(score.value(out), ce.measure(out, y) + 10 * missing)
    wrong = objective.bind(None, None, (y + 1) % 3)
    assert torch.equal(wrong.wrong(out), detector.keeps(out))
    assert not score.wrong(out).any()
    assert objective.needs == {"features"}
    with pytest.raises(ConfigError, match="no targeted form"):
        objective.bind(None, None, y, targeted=True)
    for make in (lambda: evading(), lambda: evading(detector, lam=0)):
        with pytest.raises(ConfigError):
            make()


def trained(epochs=40):
    """A small classifier after RCE training, its data, and a fitted and calibrated K-density."""
    victim, (x, y) = classifier(), separable()
    rce.RCETrainer(victim, track=False).fit(x, y, nb_epochs=epochs, batch_size=20)
    model = victim.model.eval()
    net = Net(model, head=model[-1], wanted=frozenset({"features"}))
    images, labels = torch.tensor(x), torch.tensor(y)
    with net.offering_features(), torch.no_grad():
        out = net(images)
    detector = rce.KDensity("median")
    detector.fit(out, labels)
    detector.calibrate(out, labels, 0.95)
    return victim, net, images, labels, detector


@pytest.fixture(scope="module")
def victim():
    return trained()


def test_carlini_wagner_reaches_its_margin_and_ignores_the_rest_of_the_batch(victim):
    _, net, x, y, _ = victim
    keys = Keys(0, 0, torch.arange(9))
    attack = CarliniWagner(3, confidence=1.0, steps=150, search_steps=3, initial_const=10.0, aim="any")
    score = cw.bind(net, x[:9], y[:9])
    made = attack.craft(net, x[:9], score, keys)
    assert made.x.min() >= 0
    assert made.x.max() <= 1
    assert (cw.measure(net(made.x), y[:9]) >= 1 - 1e-4).float().mean() > 0.8
    alone = attack.craft(net, x[4:5], score[slice(4, 5)], keys[4:5])
    torch.testing.assert_close(alone.x, made.x[4:5], rtol=1e-3, atol=1e-4)
    modest = CarliniWagner(3, steps=150, search_steps=3, initial_const=10.0, aim="any")
    plain = modest.craft(net, x[:9], score, keys)
    assert plain.delta.norm() < made.delta.norm()


def test_the_white_box_attack_meets_the_median_density(victim):
    _, net, x, y, detector = victim
    keys = Keys(0, 0, torch.arange(6))
    both = rce.cw_white_box(detector, 3, (0.0, 1.0), confidence=0.5, steps=120, search_steps=2)
    plain = CarliniWagner(3, confidence=0.5, steps=120, search_steps=2, initial_const=10.0)
    assert both.objective.needs == {"features"}
    with net.offering_features():
        score = cw.bind(net, x[:6], y[:6])
        outs = [net(a.craft(net, x[:6], score, keys).x) for a in (both, plain)]
        density, plain_density = (detector.score(out).mean() for out in outs)
    assert (outs[0].logits.argmax(1) != y[:6]).float().mean() > 0.6
    assert density > plain_density


def test_pgd_that_knows_the_detector_evades_it_more_often(victim):
    _, net, x, y, detector = victim
    keys = Keys(0, 0, torch.arange(len(x)))
    found = []
    with net.offering_features():
        for objective in (ce, evading(detector), evading(detector, order="label_first")):
            attack = for_evaluation(PGD(Linf(0.4), 30, objective=objective))
            made = attack.craft(net, x, objective.bind(net, x, y), keys)
            assert float(made.delta.abs().max()) <= 0.4 + 1e-6
            out = net(made.x)
            found.append(float(((out.logits.argmax(1) != y) & detector.keeps(out)).float().mean()))
    assert max(found[1:]) >= found[0]


def prepared(victim):
    """The victim's detectors as an evaluation has them: fitted, with thresholds; and the context around them."""
    _, net, x, y, _ = victim
    with torch.no_grad(), net.offering_features():
        out = net(x)
    detectors = [rce.LogOdds(), rce.NonMaxEntropy(), rce.KDensity("median")]
    for detector in detectors:
        detector.fit(out, y)
        detector.calibrate(out, y, 0.9)
    facts = Facts(out.logits.shape[1], tuple(x.shape[1:]))
    return detectors, EvaluationContext(Plan.of([rce.RCE()], facts), "linf", 0.2, (0.0, 1.0), {}, detectors)


def test_evaluations_run_the_white_box_attack_and_the_sweep_on_each_detector_and_on_all(victim):
    _, net, x, y, _ = victim
    detectors, context = prepared(victim)
    entries = ENTRIES
    known = adaptive_of([rce.RCE()])
    lineup = build_lineup(context.plan, Threat("linf", 0.2), suite_named("standard"), entries, context, adaptive=known)
    informed = ["cw_wb5", *(f"evading100_{name}" for name in ("confidence_odds", "non_me", "k_density", "all"))]
    assert lineup.covered["rce"][:5] == informed, "they run by default on what RCE trained"
    sweeps = dict(entries["evade_detectors"].build(entries["evade_detectors"].options(steps=10), context))
    assert list(sweeps) == ["evading10_confidence_odds", "evading10_non_me", "evading10_k_density", "evading10_all"]
    ((name, white_box),) = entries["cw_wb"].build(entries["cw_wb"].options(steps=20, search_steps=2), context)
    assert (name, white_box.confidence, white_box.steps) == ("cw_wb5", 5.0, 20)
    assert white_box.rate == white_box.begin.rate == 0.05
    ((_, slow),) = entries["cw_wb"].build(entries["cw_wb"].options(), context)
    assert (slow.rate, slow.steps, slow.begin.steps) == (0.01, 1000, 500)
    assert white_box.penalty == detectors[2].penalty
    keys = Keys(0, 0, torch.arange(len(x)))
    with net.offering_features():
        for name, sweep in sweeps.items():
            assert [len(sweep.attacks), sweep.cost] == [3, 30]
            best = sweep.craft(net, x, sweep.objective.bind(net, x, y), keys).x
            singles = [
                one.craft(net, x, one.objective.bind(net, x, y), keys.stream("attack", number)).x
                for number, one in enumerate(sweep.attacks)
            ]
            aim = sweep.objective.bind(net, x, y)
            with torch.no_grad():
                reached = aim.value(net(best))
                each = torch.stack([aim.value(net(single)) for single in singles])
                wrong = torch.stack([aim.wrong(net(single)) for single in singles])
            torch.testing.assert_close(
                reached, torch.where(wrong | ~wrong.any(0), each, -torch.inf).amax(0), msg=name
            )
            assert float((best - x).abs().max()) <= 0.2 + 1e-6
    for name in ("evade_detectors", "cw_wb"):
        with pytest.raises(ConfigError, match="detector"):
            entries[name].build(entries[name].options(), EvaluationContext(context.plan, "linf", 0.2, (0.0, 1.0)))


def test_a_recipe_names_the_attacks_on_detectors_and_the_suite_runs_them(victim):
    """They are built where the evaluation has fitted the detectors; the rows before it are of the other attacks."""
    _, net, x, y, _ = victim
    asked = "evaluate=[{cw_wb: {steps: 20}}, {pgd: {steps: 3}}, {evade_detectors: {steps: 5}}]"
    job = prepare(load_recipe("digits/rce", [asked]))
    assert [name for name, _ in job.attacks(job.plan(job.ingredients))] == ["pgd3"]
    rows, plan = Rows(x, y), Plan.of([rce.RCE()], Facts(3, tuple(x.shape[1:])))
    done = Evaluation(
        Subject(net, plan, ModelInfo("rce", "sha256:0", plan.used), True, {}),
        rows,
        Threat("linf", 0.2),
        Options(suite_named("quick")),
        asked=job.recipe.attacks(job.catalogue),
        calibration=rows,
        seen={"training": rows},
    )
    sweeps = [f"evading5_{name}" for name in ("confidence_odds", "non_me", "k_density", "all")]
    assert done.lineup.listed == ["cw_wb5", "pgd3", *sweeps]
    with pytest.raises(ConfigError, match="cw_wb attacks detectors, which a suite alone fits and judges; set suite"):
        prepare(load_recipe("digits/rce", [asked, "suite=none"]))
    with pytest.raises(ConfigError, match="cw_wb attacks a fitted K-density detector, and the evaluation has none"):
        prepare(load_recipe("digits/pgd_at", [asked]))
    only = prepare(load_recipe("digits/rce", ["evaluate=[{cw_wb: {steps: 20}}]"]))
    assert [name for name, _ in only.attacks(only.plan(only.ingredients))] == ["pgd20", "pgd20_margin"]


def test_unbounded_pixels_and_targets_without_a_class_are_refused():
    with pytest.raises(ConfigError, match="clip_values"):
        Plan.of([attacks.CWHighConfidence()], Facts(3, (1, 6, 6), (float("-inf"), float("inf")))).compose()
    with pytest.raises(ConfigError, match="set aim to random"):
        CarliniWagner(3, aim="any", penalty=lambda out, y: out.logits[:, 0])


def test_the_evaluation_knows_cw_hc_and_the_paper_constants():
    context = EvaluationContext(Plan.of([rce.RCE()], FACTS), "linf", 0.1, (0.0, 1.0))
    ((name, attack),) = ENTRIES["cw_hc"].build(ENTRIES["cw_hc"].options(), context)
    assert name == "cw_hc10"
    assert (attack.confidence, attack.n_classes, attack.search_steps, attack.rate) == (10, 4, 9, 0.01)
    assert (attack.steps, attack.initial_const, attack.aim, attack.within) == (1000, 1.0, "random", None)
    wb = rce.cw_white_box(rce.KDensity(), 10, (0.0, 1.0))
    assert (wb.steps, wb.initial_const, wb.confidence) == (10_000, 100, 5)
    assert (wb.begin.steps, wb.begin.initial_const, wb.begin.search_steps) == (5000, 10, 3)
    alone = Plan.of([attacks.CWHighConfidence()], FACTS).compose().attack
    assert (alone.steps, alone.confidence, alone.aim, alone.initial_const) == (10_000, 10, "random", 1.0)


# ----------------------------------------------------------------------------------- one training


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_training_is_the_plain_loop(temperature):
    x, y = data()
    eps, steps, lr, epochs = 0.1, 3, 0.1, 2
    plan = Plan.of([PGDAT(eps=eps, steps=steps), rce.RCE(train_temperature=temperature)], FACTS)
    ours, plain = plan.operate(plain_network()).double(), plain_network().double()
    optimizer = torch.optim.SGD(ours.parameters(), lr=lr, momentum=0.9)
    batches, run = ArrayBatches(x, y, 8, 0), Run(RunSettings(precision="64-true"), 0, torch.device("cpu"))
    net = Net(ours, head=find_head(ours, FACTS)[1], wanted=plan.compose().needs)
    Fit(plan, net, optimizer, run, epochs=epochs)(batches)

    optimizer = torch.optim.SGD(plain.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            clean = batch.x.double()
            noise = Keys(0, epoch, batch.index).stream("start", 0).uniform((1, 6, 6))
            adv = (clean + (2 * noise - 1).double() * eps).clamp(0, 1)
            for _ in range(steps):
                adv.requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(-plain(adv), batch.y, reduction="sum"), adv)
                adv = adv.detach() + 2.5 * eps / steps * grad.sign()
                adv = torch.minimum(torch.maximum(adv, clean - eps), clean + eps).clamp(0, 1)
            reverse = (1 - F.one_hot(batch.y, 4).double()) / 3
            loss = -(reverse * F.log_softmax(temperature * plain(adv), 1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for got, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        # lightning-fabric hands the logits of a 64-true pass over in float32: that is all the two may differ by.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------- ART


def classifier(n_classes=3):
    model = plain_network(n_classes)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), n_classes,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), clip_values=(0, 1),
    )  # fmt: skip


def separable(n=60):
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(n) % 3
    x = 0.2 * torch.rand(n, 1, 6, 6, generator=generator)
    for label in range(3):
        x[y == label, :, 2 * label : 2 * label + 2] += 0.7
    return x.numpy(), y.numpy()


def test_art_trains_in_place_and_everyone_sees_reversed_logits(victim):
    art_victim, _, images, labels, _ = victim
    x, y = images.numpy(), labels.numpy()
    assert isinstance(art_victim.model[-1], rce.Negate)
    assert (art_victim.predict(x).argmax(1) == y).mean() > 0.9
    adv = rce.RCEAttack(art_victim, eps=0.3, steps=10).generate(x, y)
    assert (art_victim.predict(adv).argmax(1) == y).mean() < (art_victim.predict(x).argmax(1) == y).mean()
    goal = (y + 1) % 3
    hit = art_victim.predict(rce.RCEAttack(art_victim, eps=0.3, steps=10, targeted=True).generate(x, goal))
    margin = lambda out: cw.measure(Outputs(torch.tensor(out)), torch.tensor(goal)).mean()  # noqa: E731
    assert margin(hit) < margin(art_victim.predict(x))


def knowing(criterion_sign):
    """A classifier that was trained with cross-entropy, on its logits or on their negatives."""
    known = classifier()
    x, y = (torch.tensor(part) for part in separable())
    for _ in range(60):
        known.optimizer.zero_grad()
        F.cross_entropy(criterion_sign * known.model(x), y).backward()
        known.optimizer.step()
    return known


def test_art_refuses_weights_that_know_the_labels_the_other_way_round():
    x, y = separable()
    known = knowing(1)
    assert (known.predict(x).argmax(1) == y).mean() > 0.9
    with pytest.raises(ModelError, match=r"rce cannot train this classifier.*highest logit.*new weights") as error:
        rce.RCETrainer(known, track=False, verbose=False).fit(x, y, nb_epochs=1)
    assert "\n" not in str(error.value)
    assert not isinstance(known.model[-1], rce.Negate)
    turned = knowing(-1)
    rce.RCETrainer(turned, track=False, verbose=False).fit(x, y, nb_epochs=1)
    assert (turned.predict(x).argmax(1) == y).mean() > 0.9, "it went on from what it knew"
    rce.RCETrainer(turned, track=False, verbose=False).fit(x, y, nb_epochs=1)
    assert isinstance(turned.model[-1], rce.Negate), "and goes on from what it trained"


def test_a_recipe_does_not_go_on_from_weights_that_rce_did_not_train(tmp_path):
    def prepared(*overrides):
        return prepare(load_recipe("digits/rce", overrides))

    for method, job in (("rce", prepared()), ("none", prepared("use=[]", "threat={eps: 0.1}"))):
        folder = tmp_path / method
        folder.mkdir()
        model = job.model(job.plan(job.ingredients))
        keep_network(folder, describe_network(model, job.facts, job.resolved))
        save_file(model.state_dict(), folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"rce cannot train the network of model\.from=.*none further: .*leave model"):
        prepared(f"model={{from: {tmp_path / 'none'}}}")
    assert prepared(f"model={{from: {tmp_path / 'rce'}}}").given is not None
    other = prepared(f"model={{from: {tmp_path / 'rce'}}}", "use=[]", "threat={eps: 0.1}")
    assert other.given is not None, "what rce trained can be trained without it: its head keeps the sign"


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("KDensityDetector", {"sigma2": "medain"}, "k_density.sigma2: input should be 'median' or a number such as"),
        ("KDensityDetector", {"sigma2": "medain"}, "got 'medain'; did you mean median?"),
        ("KDensityDetector", {"sigma2": math.nan}, "k_density.sigma2: input should be 'median' or a finite number"),
        ("KDensityDetector", {"sigma2": -1}, "k_density.sigma2: input should be 'median' or greater than 0, got -1"),
        ("KDensityDetector", {"per_class": 2.5}, "k_density.per_class: input should be a valid integer, got 2.5"),
        ("KDensityDetector", {"per_class": 1}, "k_density.per_class: input should be greater than or equal to 2"),
        ("KDensityDetector", {"seed": 2**70}, "k_density.seed: input should be less than 9223372036854775808"),
        ("KDensityDetector", {"seed": "a"}, "k_density.seed: input should be a valid integer, got 'a'"),
        ("LIDDetector", {"k": "a"}, "lid.k: input should be a valid integer, got 'a'"),
        ("LIDDetector", {"k": 2.5}, "lid.k: input should be a valid integer, got 2.5"),
        ("LIDDetector", {"k": 1}, "lid.k: input should be greater than or equal to 2, got 1"),
    ],
)
def test_detectors_refuse_options_in_one_line(kind, options, said):
    made = getattr(rce, kind)(classifier())
    for ask in (lambda: getattr(rce, kind)(classifier(), **options), lambda: made.set_params(**options)):
        with pytest.raises(ConfigError) as error:
            ask()
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    for name in options:
        assert getattr(made, name) != options[name]


def test_art_attacks_of_the_paper_refuse_what_they_do_not_have(victim):
    art_victim = victim[0]
    with pytest.raises(ConfigError, match="eps"):
        attacks.CWHighConfidenceAttack(art_victim, eps=0.1)
    with pytest.raises(ConfigError, match=r"cw_wb\.detector is missing"):
        rce.CWWhiteBoxAttack(art_victim)
    with pytest.raises(ConfigError, match="evade_detectors"):
        attacks.EvadeDetectorsAttack(art_victim, detectors=())
    for unready in (rce.KDensityDetector(art_victim), rce.KDensity()):
        with pytest.raises(ConfigError, match=r"cw_wb\.detector: k_density is not fitted yet; fit it"):
            rce.CWWhiteBoxAttack(art_victim, detector=unready)
        with pytest.raises(ConfigError, match=r"detectors\.0: k_density has no threshold yet; fit it") as said:
            attacks.EvadeDetectorsAttack(art_victim, detectors=(unready,))
        assert "at least 1 item" not in str(said.value)
    with pytest.raises(ConfigError, match=r"cw_wb\.detector: input should be an instance of KDensity"):
        rce.CWWhiteBoxAttack(art_victim, detector=rce.ConfidenceDetector(art_victim))


def test_art_attacks_take_art_s_detectors_as_well_as_their_scores(victim):
    art_victim, _, images, labels, _ = victim
    x, y = images.numpy(), labels.numpy()
    detector = rce.KDensityDetector(art_victim, sigma2="median", tpr=0.9)
    detector.fit(x, y)
    for attack, name, wrap in (
        (rce.CWWhiteBoxAttack, "detector", lambda one: one),
        (attacks.EvadeDetectorsAttack, "detectors", lambda one: (one,)),
    ):
        options = {"steps": 4, "search_steps": 2} if name == "detector" else {"steps": 4, "eps": 0.2}
        made = [attack(art_victim, **{name: wrap(one)}, **options) for one in (detector, detector.detector)]
        assert (made[0].generate(x[:6], y[:6]) == made[1].generate(x[:6], y[:6])).all()


def test_images_in_the_order_of_their_classes_give_every_class_a_bank(victim):
    art_victim, _, images, labels, _ = victim
    order = labels.argsort(stable=True)
    x, y = images[order].numpy(), labels[order].numpy()
    detector = rce.KDensityDetector(art_victim, sigma2="median", tpr=0.9)
    detector.fit(x, y)
    assert all(len(members) > 0 for members in detector.detector.bank)
    assert math.isfinite(detector.threshold)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).numpy()
    assert detector.detect(noise)[1].mean() > detector.detect(x)[1].mean() + 0.2

    right = art_victim.predict(x).argmax(1) == y
    last = int((right & (y == y[0])).nonzero()[0][0])
    others = (right & (y != y[0])).nonzero()[0][:9]
    lacking = rce.KDensityDetector(art_victim, sigma2="median")
    with pytest.raises(ConfigError, match=r"threshold of k_density would keep everything, .* some class; give fit"):
        lacking.fit(x[[*others, last]], y[[*others, last]])
    assert lacking.threshold is None


def test_the_usual_sigma2_is_that_of_the_network_s_training():
    plain = classifier()
    assert rce.KDensityDetector(plain).detector.sigma2 == pytest.approx(1 / 0.26)
    turned = classifier()
    negate_head(turned.model, Facts(3, (1, 6, 6)))
    assert rce.KDensityDetector(turned).detector.sigma2 == pytest.approx(0.1 / 0.26)
    assert rce.KDensityDetector(turned, sigma2=2.0).detector.sigma2 == 2.0
    changed = rce.KDensityDetector(plain)
    changed.set_params(per_class=50)
    assert (changed.detector.sigma2, changed.detector.per_class) == (pytest.approx(1 / 0.26), 50)


@pytest.mark.parametrize("kind", ["ConfidenceDetector", "NonMaxEntropyDetector", "KDensityDetector", "LIDDetector"])
def test_art_detectors_keep_most_clean_images(victim, kind):
    art_victim, _, images, labels, _ = victim
    detector = getattr(rce, kind)(art_victim, tpr=0.9)
    detector.fit(images.numpy(), labels.numpy())
    report, rejected = detector.detect(images.numpy())
    assert report["scores"].shape == rejected.shape == (len(labels),)
    assert rejected.mean() < 0.5
