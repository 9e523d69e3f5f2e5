"""A network that may reject, under every attack of an evaluation: counted anew from the images, and in closed form."""

from dataclasses import replace

import pytest
import torch
from evaluated import EPS, TINY, data, evaluation, trained
from torch import nn

from art_ext.api import PGD, Confidence, Linf, Norm, ZeroStart, other_confidence
from art_ext.engine.net import Net
from art_ext.evaluation.evading import MultiTargeted, towards
from art_ext.evaluation.lineup import Planned
from art_ext.evaluation.subject import Rows
from art_ext.evaluation.suite import Evaluator
from art_ext.host.evaluation_text import lines_of
from art_ext.parts.detectors import threshold_at
from art_ext_ccat import CCAT

N, WIDE = 48, 0.2


@pytest.fixture(scope="module")
def module():
    return trained()


def judged(module, eps=WIDE, **options):
    held_out = Rows(*data(60, seed=9))
    return evaluation(module, n=N, eps=eps, ingredients=(CCAT(eps=EPS),), calibration=held_out, **options)


def evaded(record, tpr=0.99):
    return next(item for item in record.rejection if item.aim == "evade" and item.asked_tpr == tpr)


def test_the_worst_case_is_counted_over_every_attack_of_the_evaluation(module):
    done = judged(module)
    record = done.run()
    x, y = data(N)
    held_x, held_y = data(60, seed=9)
    with torch.no_grad():
        held, clean = (module(images).softmax(1) for images in (held_x, x))
    tau = threshold_at(held.amax(1)[held.argmax(1) == held_y], 0.99)
    best = [-1.0] * N  # the confidence of the surest wrong twin of each image
    for planned in done.campaign.planned:
        rows = done.campaign.found[planned.name].done.nonzero().squeeze(1)
        if not planned.bounded(done.threat) or len(rows) == 0:
            continue
        twins, _ = Evaluator(Net(module), x, y).craft(planned.attack, rows)
        assert float((twins - x[rows]).abs().max()) <= WIDE + 1e-5
        with torch.no_grad():
            p = module(twins).softmax(1)
        for row, of_twin in zip(rows.tolist(), p, strict=True):
            if int(of_twin.argmax()) != int(y[row]):
                best[row] = max(best[row], float(of_twin.max()))
    wrong_kept = kept = 0
    for row in range(N):
        clean_kept, twin_kept = float(clean[row].max()) >= tau, best[row] >= tau
        wrong_kept += (int(clean[row].argmax()) != int(y[row]) and clean_kept) or twin_kept
        kept += clean_kept or twin_kept
    assert evaded(record).robust_error == pytest.approx(wrong_kept / kept)
    assert evaded(record).unthresholded == pytest.approx(sum(b > 0 for b in best) / N, abs=1 / N)


@pytest.mark.parametrize("eps", [0.06, 0.5], ids=["inside", "outside"])
def test_each_attack_that_was_asked_for_has_a_row_counted_by_hand(module, eps):
    asked = PGD(Linf(eps), 3, eps / 3, start=ZeroStart(), keep="best", stop_when_wrong=True)
    done = judged(module, 0.08, extra=(Planned("bim3", asked, "gradient", True),))
    record = done.run()
    rows = {(item.attack, item.asked_tpr): item for item in record.rejection if item.aim == "listed"}
    assert rows.keys() == {("bim3", 0.99), ("bim3", 0.95)}
    assert done.campaign.found["bim3"].done.all(), "wrong images too: a detector may keep them"
    x, y = data(N)
    held_x, held_y = data(60, seed=9)
    adv, best, fallen = x.clone(), x.clone(), torch.zeros(N, dtype=torch.bool)
    found = torch.full((N,), -torch.inf)
    for step in range(4):
        adv = adv.detach().requires_grad_()
        loss = nn.functional.cross_entropy(module(adv), y, reduction="none")
        wrong = module(adv).argmax(1) != y
        better = (wrong & ~fallen) | ((wrong == fallen) & (loss.detach() > found))
        best[better], found[better], fallen = adv.detach()[better], loss.detach()[better], fallen | wrong
        if step < 3:
            (grad,) = torch.autograd.grad(loss.sum(), adv)
            adv = torch.minimum(torch.maximum(adv + eps / 3 * grad.sign(), x - eps), x + eps).clamp(0, 1)
    with torch.no_grad():
        held, clean, twins = (module(images).softmax(1) for images in (held_x, x, best))
    for tpr in (0.99, 0.95):
        tau = threshold_at(held.amax(1)[held.argmax(1) == held_y], tpr)
        wrong, kept = clean.argmax(1) != y, clean.amax(1) >= tau
        fooled, twin_kept = twins.argmax(1) != y, (twins.amax(1) >= tau) & (twins.argmax(1) != y)
        item = rows["bim3", tpr]
        assert item.threshold == pytest.approx(tau)
        assert item.tpr == pytest.approx(float(kept[~wrong].double().mean()))
        assert item.robust_error == pytest.approx(
            float(((wrong & kept) | twin_kept).sum()) / float((kept | twin_kept).sum())
        )
        pairs = fooled & ~wrong
        assert item.n_eligible == int(pairs.sum()) > 5
        ranks = clean.amax(1)[pairs][:, None] - twins.amax(1)[pairs][None]
        assert item.auc == pytest.approx(float(((ranks > 0) + 0.5 * (ranks == 0)).double().mean()), abs=1e-6)
    lines = [line for line in lines_of(record) if "under bim3" in line]
    assert len(lines) == 1
    assert f"AUC {rows['bim3', 0.99].auc:.3f}" in lines[0]
    assert not any(item.attack == "bim3" for item in record.rejection if item.aim != "listed")


def test_who_knows_the_detector_attacks_every_image_though_none_stands(module):
    record = judged(module).run()
    assert record.worst_case.accuracy == 0
    right = round(record.clean.accuracy * N)
    for name in ("ccat_attack", "evade_confidence"):
        assert record.attack(name).attacked == N > right
        assert record.attack(name).of == "ccat"


def test_any_attack_that_is_surer_raises_the_error(module):
    eps = 0.08
    attack = PGD(Linf(eps), 50, 0.02, objective=other_confidence, restarts=4, keep="best")
    few = replace(TINY, evasion=(1, 1, 1), caps={"steps": 1, "restarts": 1})
    extras = ((), (Planned("sure", attack, "gradient", True),))
    weak, strong = (judged(module, eps, suite=few, extra=extra).run() for extra in extras)
    assert evaded(strong).robust_error >= evaded(weak).robust_error
    assert evaded(strong).auc_all_clean < evaded(weak).auc_all_clean
    assert evaded(strong).strongest == "sure"


def test_scores_come_back_from_the_folder(module, tmp_path):
    first = judged(module, folder=tmp_path).run()
    again = judged(module, folder=tmp_path)
    again.attack()
    spent = again.evaluator.spent.forwards
    record = again.run()
    assert record.rejection == first.rejection
    assert again.evaluator.spent.forwards - spent < 70 * N  # denial, noise and the checks: no attack was run again


def test_towards_every_class_of_a_linear_network_is_its_corner():
    """log p_t of a linear network is concave in x; with two classes its greatest value in the ball is at a corner."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    x = 0.3 + 0.4 * torch.rand(10, 1, 6, 6)
    with torch.no_grad():
        y = linear(x).argmax(1)
        weight = linear[1].weight
        way = (weight[1 - y] - weight[y]).sign().reshape(-1, 1, 6, 6)
        exact = linear(x + 0.1 * way).softmax(1).gather(1, (1 - y)[:, None])[:, 0]
    detector = Confidence()
    attack = MultiTargeted(Linf(0.1), detector, towards(detector), 9, 25)
    made, _ = Evaluator(Net(linear), x, y).craft(attack, torch.arange(10))
    with torch.no_grad():
        reached = linear(made).softmax(1).gather(1, (1 - y)[:, None])[:, 0]
    torch.testing.assert_close(reached, exact)


def test_each_image_keeps_the_class_that_it_is_surest_of():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[4.0, 0, 0, 0], [0, 6.0, 0, 0], [0, 0, 40.0, 0]]))
    x = torch.tensor([0.6, 0.38, 0.01, 0]).reshape(1, 1, 2, 2)
    y = torch.tensor([0])  # logits 2.4, 2.28 and 0.4: the last can be raised furthest, to 4.4
    detector = Confidence()
    for targets, logits in ((1, [2.0, 2.88, 0.0]), (2, [2.0, 6 * 0.28, 4.4])):
        attack = MultiTargeted(Linf(0.1), detector, towards(detector), targets, 20)
        made, _ = Evaluator(Net(network), x, y).craft(attack, torch.tensor([0]))
        with torch.no_grad():
            torch.testing.assert_close(network(made).softmax(1)[0], torch.tensor(logits).softmax(0))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_it_stays_in_the_ball_of_every_norm(module, norm):
    from art_ext.api import norm_named

    ball: Norm = norm_named(norm, {"linf": 0.1, "l2": 0.5, "l1": 2.0, "l0": 3.0}[norm])
    detector = Confidence()
    x, y = data(6)
    attack = MultiTargeted(ball, detector, towards(detector), 2, 5)
    made, _ = Evaluator(Net(module), x, y).craft(attack, torch.arange(6))
    assert bool((ball.of(made - x) <= ball.largest * (1 + 1e-5)).all())
    assert bool((made >= 0).all() and (made <= 1).all())
