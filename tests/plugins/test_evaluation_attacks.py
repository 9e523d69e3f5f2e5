"""The attacks of evaluations beside AutoAttack's: against linear networks, whose answers are known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.attacks.evasion import CarliniL2Method
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_ext.api import (
    CORRUPTIONS,
    L0,
    L2,
    PGD,
    CarliniWagner,
    Confidence,
    ConfigError,
    EvaluationContext,
    EveryTarget,
    Facts,
    Keys,
    Linf,
    Outputs,
    Plan,
    ce,
    cw,
    for_evaluation,
)
from art_ext.engine.net import Net
from art_ext_attacks import corrupted, evading, frames, least_likely, minimal_l2, rays, saliency, spsa, transfer
from art_ext_attacks.rays import RayS, flipped
from art_ext_attacks.spsa import SPSA, difference_gradient, signs

FACTS = Facts(3, (1, 6, 6))
CONTEXT = EvaluationContext(Plan(FACTS), "linf", 0.2, (0.0, 1.0))


class Linear(nn.Module):
    """z = W x + b in float64, so that margins have closed forms."""

    def __init__(self, weight, bias=None):
        super().__init__()
        self.weight, self.bias = weight, torch.zeros(len(weight)).double() if bias is None else bias

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


def linear(k=3, d=36, seed=0):
    weight = torch.randn(k, d, generator=torch.Generator().manual_seed(seed)).double()
    return Linear(weight)


def images(n=12, seed=1):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed)).double() * 0.6 + 0.2


def keys(n, seed=0):
    return Keys(seed, 0, torch.arange(n))


def run(attack, model, x, y=None, **options):
    net = Net(model)
    y = model(x).argmax(1) if y is None else y
    objective = attack.objective or ce
    made = attack.craft(net, x, objective.bind(net, x, y), options.pop("keys", keys(len(x))), **options)
    return made.x, model(made.x).argmax(1) != y


def linf_distance(model, x):
    """The smallest L-inf radius that changes a linear network's answer, the box left aside; (N,)."""
    z, y = model(x), model(x).argmax(1)
    gaps = z.gather(1, y[:, None]) - z
    normals = (model.weight[y][:, None] - model.weight[None]).abs().sum(2)
    ratio = gaps / normals.clamp(min=1e-12)
    return ratio.scatter(1, y[:, None], float("inf")).amin(1)


def every_attack(eps=0.2):
    ball = Linf(eps)
    return {
        "ilcm": least_likely.LeastLikely(ball, 10),
        "spsa": SPSA(ball, steps=20, samples=16, rate=0.05),
        "rays": RayS(ball, 400),
        "jsma": saliency.JSMA(9, 3),
        "cw_l2": CarliniWagner(3, steps=60, search_steps=3, initial_const=1.0, rate=0.05, aim="any", within=L2(1.0)),
        "frames": frames.FrameSettings(width=1, steps=10).frame((0.0, 1.0), ce),
    }


@pytest.mark.parametrize("name", every_attack())
def test_results_do_not_depend_on_the_batch_and_stay_in_the_box(name):
    model, x, attack = linear(), images(), every_attack()[name]
    before = x.clone()
    together, wrong = run(attack, model, x)
    assert torch.equal(x, before)
    assert together.min() >= 0
    assert together.max() <= 1
    assert wrong.any()
    norm = getattr(attack, "norm", None) or getattr(attack, "within", None)
    if norm is not None:
        assert (norm.of(together - x) <= norm.largest + 1e-9).all()
    rows = torch.tensor([5, 2, 9])
    alone, _ = run(attack, model, x[rows], keys=keys(12)[rows])
    assert torch.allclose(alone, together[rows], atol=1e-12)


@pytest.mark.parametrize("name", [*every_attack()])
def test_a_mask_is_honoured(name):
    model, x = linear(), images()
    mask = torch.zeros(1, 1, 6, 6).double()
    mask[..., :3] = 1
    adv, _ = run(every_attack(0.6)[name], model, x, mask=mask)
    assert torch.equal(adv[..., 3:], x[..., 3:])
    assert not torch.equal(adv[..., :3], x[..., :3])


def test_differences_along_signs_give_the_gradient():
    # over all 2^4 directions the estimate of a linear function's gradient is exact
    v = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).double().reshape(1, 16, 1, 2, 2)
    w, x, delta = torch.tensor([0.3, -2.0, 0.0, 1.0]).double(), torch.rand(1, 1, 1, 2, 2).double(), 0.1
    values = [((x + s * delta * v).flatten(2) @ w) for s in (1, -1)]
    assert torch.allclose(difference_gradient(*values, v, delta).flatten(), w)


def test_signs_are_fair_keyed_and_of_unit_size():
    v = signs(keys(3), 2000, (1, 7, 7))
    assert v.shape == (3, 2000, 1, 7, 7)
    assert set(v.unique().tolist()) == {-1, 1}
    assert v.double().mean((1, 2, 3, 4)).abs().max() < 0.02
    assert (v.double().mean(1).abs() < 0.12).all()
    assert torch.equal(signs(keys(3)[torch.tensor([2])], 2000, (1, 7, 7))[0], v[2])


def test_spsa_finds_what_a_linear_network_has():
    model, x = linear(), images(40)
    need = linf_distance(model, x)
    _, wrong = run(SPSA(Linf(0.1), steps=60, samples=64, rate=0.02), model, x)
    assert not wrong[need > 0.1].any()
    assert wrong[need < 0.08].all()


def test_spsa_needs_no_gradient():
    class Steps(nn.Module):
        def forward(self, x):
            return torch.round(linear()(x) * 20) / 20

    model, x = Steps(), images()
    net, y = Net(model), model(images()).argmax(1)
    point = x.clone().requires_grad_()
    assert torch.autograd.grad(cw.bind(net, x, y).value(net(point)).sum(), point)[0].abs().max() == 0
    _, wrong = run(SPSA(Linf(0.3), steps=40, samples=64, rate=0.05, delta=0.05), model, x)
    _, blind = run(for_evaluation(PGD(Linf(0.3), 20)), model, x)
    assert wrong.sum() > blind.sum()


def test_rays_finds_the_radius_of_a_linear_network():
    model, x = linear(d=36), images(20)
    need = linf_distance(model, x)
    adv, wrong = run(RayS(Linf(0.1), 2000), model, x)
    assert not wrong[need > 0.1].any()
    assert wrong[need < 0.07].all()
    assert float((adv - x).abs().max()) <= 0.1 + 1e-9


def test_rays_counts_its_queries():
    class Counting(Linear):
        seen = 0

        def forward(self, x):
            self.seen += len(x)
            return super().forward(x)

    base = linear()
    model = Counting(base.weight, torch.tensor([1e4, 0, 0]).double())  # nothing changes its answer
    x = images(8)
    _, wrong = run(RayS(Linf(0.1), 50), model, x, y=torch.zeros(8, dtype=torch.long))
    assert not wrong.any()
    assert model.seen <= 8 * 50 + 8  # and the test's own look


def test_rays_leaves_alone_what_is_wrong_already():
    model, x = linear(), images()
    y = model(x).argmax(1)
    y[::2] = (y[::2] + 1) % 3
    adv, wrong = run(RayS(Linf(0.4), 300), model, x, y=y)
    assert torch.equal(adv[::2], x[::2])
    assert wrong.all()


def test_blocks_are_turned_in_order():
    ones = torch.ones(1, 6)
    assert flipped(ones, 1, 0).tolist() == [[-1, -1, -1, 1, 1, 1]]
    assert flipped(ones, 2, 2).tolist() == [[1, 1, 1, 1, -1, -1]]


def test_rays_is_of_linf():
    with pytest.raises(ConfigError, match="rays searches an L-inf ball, got l2; use square or spsa"):
        RayS(L2(1.0))


def test_ilcm_goes_to_the_least_likely_class():
    model, x = linear(), images()
    adv, wrong = run(least_likely.LeastLikely(Linf(0.4), 30), model, x)
    assert (model(adv).argmax(1) == model(x).argmin(1)).all()
    assert wrong.all()


def test_cw_finds_the_nearest_image_of_a_linear_network():
    model = linear()
    x = images(10) * 0.2 + 0.4  # far from the box, so that the hyperplane is all that counts
    z, y = model(x), model(x).argmax(1)
    normals = (model.weight[y][:, None] - model.weight[None]).square().sum(2).sqrt()
    near = (z.gather(1, y[:, None]) - z) / normals.clamp(min=1e-12)
    expected = near.scatter(1, y[:, None], float("inf")).amin(1)
    (_, attack), = minimal_l2.ENTRY.build(
        minimal_l2.CarliniWagnerOptions(norm="l2", eps=9.0, steps=500, search_steps=6, initial_const=0.1), CONTEXT
    )
    adv, wrong = run(attack, model, x)
    assert wrong.all()
    assert torch.allclose((adv - x).flatten(1).norm(dim=1), expected, rtol=0.02, atol=1e-3)


def test_cw_results_outside_the_ball_do_not_count():
    model, x = linear(), images()
    far, _ = run(CarliniWagner(3, steps=80, search_steps=3, initial_const=1.0, rate=0.05, aim="any"), model, x)
    distance = (far - x).flatten(1).norm(dim=1)
    cut = float(distance.median())
    attack = CarliniWagner(3, steps=80, search_steps=3, initial_const=1.0, rate=0.05, aim="any", within=L2(cut))
    kept, _ = run(attack, model, x)
    inside = distance <= cut
    assert torch.equal(kept[inside], far[inside])
    assert torch.equal(kept[~inside], x[~inside])


def test_cw_is_as_near_as_arts():
    model, x = linear().float(), images(4).float()
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 3, clip_values=(0, 1))
    model.weight, model.bias = model.weight.float(), model.bias.float()
    y = model(x).argmax(1)
    theirs = CarliniL2Method(
        classifier, max_iter=40, binary_search_steps=4, learning_rate=0.05, initial_const=0.1, verbose=False
    ).generate(x.numpy(), np.eye(3)[y.numpy()])
    ours, wrong = run(
        CarliniWagner(3, steps=40, search_steps=4, initial_const=0.1, rate=0.05, aim="any"), model, x
    )
    assert wrong.all()
    distance = (ours - x).flatten(1).norm(dim=1)
    assert distance.sum() <= 1.05 * torch.as_tensor(theirs - x.numpy()).flatten(1).norm(dim=1).sum()


def test_frames_change_the_border_alone_and_may_use_the_whole_range():
    model, x = linear(), images()
    (name, attack), (other, _) = frames.build(frames.FrameSettings(width=2, steps=20, objective="criterion"), CONTEXT)
    assert other == "frame2_margin"
    adv, wrong = run(attack, model, x)
    assert name == "frame2"
    assert torch.equal(adv[..., 2:-2, 2:-2], x[..., 2:-2, 2:-2])
    assert wrong.sum() > len(x) / 2
    assert float(adv.min()) == 0
    assert float(adv.max()) == 1
    with pytest.raises(ConfigError, match="a frame of 3 pixels covers all of an image"):
        run(frames.FrameSettings(width=3).frame((0.0, 1.0), ce), model, x)
    with pytest.raises(ConfigError, match="finite clip_values"):
        frames.FrameSettings().frame((float("-inf"), float("inf")), ce)


def test_transfer_asks_the_surrogate_only():
    class Silent(nn.Module):
        def forward(self, x):
            raise AssertionError("the network under attack was asked")

    model, x = linear(), images()
    y = model(x).argmax(1)
    context = EvaluationContext(Plan(FACTS), "linf", 0.4, (0.0, 1.0), {"twin": Net(model)})
    (name, attack), = transfer.build(transfer.TransferOptions(steps=10), context)
    made = attack.craft(Net(Silent()), x, cw.bind(Net(model), x, y), keys(len(x)))
    assert name == "transfer_twin"
    assert (model(made.x).argmax(1) != y).all()
    with pytest.raises(ConfigError, match="transfer needs another network to craft on"):
        transfer.build(transfer.TransferOptions(), CONTEXT)


def test_saliency_is_that_of_the_paper():
    own, others = torch.tensor([2.0, -1.0, 3.0, -2.0]), torch.tensor([-3.0, 4.0, 1.0, -1.0])
    assert saliency.saliency(own, others, up=True).tolist() == [6, 0, 0, 0]
    assert saliency.saliency(own, others, up=False).tolist() == [0, 4, 0, 0]


def test_jsma_changes_few_values_and_finds_them():
    model, x = linear(), images(20)
    context = EvaluationContext(Plan(FACTS), "l0", 8.0, (0.0, 1.0))
    ((name, attack),) = saliency.build(saliency.JSMASettings(), context)
    adv, wrong = run(attack, model, x)
    again, _ = run(attack, model, x[7:9], keys=keys(20)[torch.tensor([7, 8])])
    assert name == "jsma8"
    assert (adv != x).flatten(1).sum(1).max() <= 8
    assert wrong.sum() >= 10
    assert torch.equal(adv[7:9], again)
    assert adv.min() == 0
    ((_, default),) = saliency.build(saliency.JSMASettings(), CONTEXT)
    assert default.norm.largest == 3


def test_jsma_helps_the_class_that_it_is_told_to():
    model, x = linear(), images(20)
    z = model(x)
    context = EvaluationContext(Plan(FACTS), "l0", 1.0, (0.0, 1.0))
    ((name, attack),) = saliency.build(saliency.JSMASettings(target="least_likely"), context)
    assert name == "jsma1_least_likely"
    assert "least likely" in str(attack)
    adv, _ = run(attack, model, x)
    # the one value that may move is that of the largest saliency for the least likely class
    for moved, least in zip((adv != x).flatten(1), z.argmin(1), strict=True):
        own, others = model.weight[least], model.weight.sum(0) - model.weight[least]
        best = torch.maximum(saliency.saliency(own, others, up=True), saliency.saliency(own, others, up=False)).argmax()
        assert moved.nonzero().flatten().tolist() == [best.item()]
    drawn, _ = run(replace(attack, target="random"), model, x)
    assert not torch.equal(adv, drawn)


def test_jsma_never_helps_the_true_class():
    model, x = linear(2), images()
    y = model(x).argmin(1)  # wrong already, and the true class the least likely one
    adv, wrong = run(saliency.JSMA(3, 2, target="least_likely"), model, x, y)
    assert torch.equal(adv, x)
    assert wrong.all()
    y = model(x).argmax(1)
    both = [run(saliency.JSMA(3, 2, target=target), model, x, y)[0] for target in ("random", "least_likely")]
    assert torch.equal(*both)  # of two classes one is wrong


def test_l0_pgd_changes_few_pixels_and_finds_the_best_of_them():
    model, x = linear(), images(20)
    k = 4
    z, y = model(x), model(x).argmax(1)
    # what k pixels can gain: the largest moves to black or white for each wrong class
    slope = model.weight[None] - model.weight[y][:, None]
    gain = torch.maximum(slope * (1 - x.flatten(1)[:, None]), -slope * x.flatten(1)[:, None])
    reach = gain.topk(k, dim=2).values.sum(2) + z - z.gather(1, y[:, None])
    possible = reach.scatter(1, y[:, None], -1.0).amax(1) > 0
    adv, wrong = run(for_evaluation(EveryTarget(L0(k), 50, n_classes=3), objective=cw), model, x)
    assert ((adv - x) != 0).flatten(1).sum(1).max() <= k
    assert not (wrong & ~possible).any()
    assert wrong.sum() >= 0.8 * possible.sum()
    assert possible.any()
    assert not possible.all()


def test_l0_counts_a_pixel_once_for_all_its_channels():
    delta = torch.zeros(1, 3, 2, 2)
    delta[0, :, 0, 0] = 1
    delta[0, 1, 1, 1] = 0.5
    assert L0(2).of(delta).tolist() == [2]
    assert L0(1).project(delta, 1)[0, :, 0, 0].tolist() == [1, 1, 1]
    assert L0(1).of(L0(1).project(delta, 1)).tolist() == [1]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_corruptions_keep_shape_and_range_and_grow_with_the_severity(name, channels):
    ramp = torch.linspace(0, 1, 32).expand(channels, 32, 32)
    x = torch.stack([ramp, ramp.transpose(1, 2), (ramp * 8).frac()]) * 0.8 + 0.1
    made = [CORRUPTIONS[name](x, severity, keys(3)) for severity in (1, 5)]
    for adv in made:
        assert adv.shape == x.shape
        assert adv.dtype == x.dtype
        assert adv.isfinite().all()
        assert adv.min() >= 0
        assert adv.max() <= 1
    mild, strong = ((adv - x).square().mean() for adv in made)
    assert 0 < mild < strong
    alone = CORRUPTIONS[name](x[2:], 5, keys(3)[torch.tensor([2])])
    assert torch.allclose(alone[0], made[1][2], atol=1e-6)


def test_corruptions_of_eight_pixels_work_too():
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, corrupt in CORRUPTIONS.items():
        assert corrupt(x, 5, keys(2)).isfinite().all(), name


def test_noise_has_the_strength_of_its_source():
    x = torch.full((64, 1, 32, 32), 0.5)
    noise = CORRUPTIONS["gaussian_noise"](x, 5, keys(64)) - x
    assert float(noise.std()) == pytest.approx(0.10, rel=0.02)
    shot = CORRUPTIONS["shot_noise"](x, 5, keys(64)) - x
    assert float(shot.std()) == pytest.approx((0.5 / 50) ** 0.5, rel=0.02)
    hit = CORRUPTIONS["impulse_noise"](x, 5, keys(64)) != x
    assert float(hit.double().mean()) == pytest.approx(0.07, rel=0.05)


def test_corruptions_are_named_in_recipes():
    options = corrupted.CorruptionOptions(severity=2, names=("fog", "jpeg"))
    named = corrupted.build(options, CONTEXT)
    assert [name for name, _ in named] == ["fog_2", "jpeg_2"]
    adv, _ = run(named[0][1], linear(), images())
    assert adv.shape == (12, 1, 6, 6)
    with pytest.raises(ValueError, match="did you mean"):
        corrupted.CorruptionOptions(names=("fogg",))


def test_every_objective_goes_with_the_attacks():
    class Members(nn.Module):
        def forward(self, x):
            return linear()(x)

    def measure(out: Outputs, y):
        return -out.logits.gather(1, y[:, None]).squeeze(1)

    from art_ext.api import Objective

    objective, x = Objective("lowest", measure), images()
    for attack in (SPSA(Linf(0.4), 20, 16, rate=0.05, objective=objective), least_likely.LeastLikely(Linf(0.4), 5)):
        _, wrong = run(attack, Members(), x)
        assert wrong.any()


def test_entries_build_from_the_threat():
    for entry in (spsa.ENTRY, rays.ENTRY, least_likely.ENTRY, minimal_l2.ENTRY):
        (name, attack), = entry.build(entry.options(), CONTEXT)
        norm = getattr(attack, "norm", None) or attack.within
        assert str(norm) == "linf(0.2)"
        assert name.startswith(entry.name)


def test_detectors_of_any_method_are_evaded_inside_the_ball():
    x, net = images(), Net(linear())
    with torch.no_grad():
        out = net(x)
    y, detector = out.logits.argmax(1), Confidence()
    detector.calibrate(out, y, 0.8)
    ((name, sweep),) = evading.build(evading.EvadingOptions(steps=20, eps=0.3), replace(CONTEXT, detectors=[detector]))
    assert name == "evading20_confidence"
    plain = for_evaluation(PGD(Linf(0.3), 20))
    kept = []
    for attack in (plain, sweep):
        adv = attack.craft(net, x, attack.objective.bind(net, x, y), keys(len(x))).x
        assert float((adv - x).abs().max()) <= 0.3 + 1e-6
        with torch.no_grad():
            kept.append(int(((net(adv).logits.argmax(1) != y) & detector.keeps(net(adv))).sum()))
    assert kept[1] > kept[0]
    with pytest.raises(ConfigError, match="evade_detectors attacks detectors with thresholds, and the evaluation has"):
        evading.build(evading.EvadingOptions(), CONTEXT)
