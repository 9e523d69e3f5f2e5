"""Balls: projections against brute force and closed forms, starts inside, ascent that is steepest."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from art_ext.errors import ConfigError
from art_ext.parts.noise import Keys
from art_ext.parts.norms import L0, L1, L2, Linf, lp, norm_named, per_example, project_l1, project_l2
from art_ext.parts.ranges import Uniform

NORMS = [Linf, L2, L1]
SHAPE = (2, 3, 4)
D = 24


def _random(n=20, scale=1.0, seed=0):
    return scale * torch.randn(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _keys(n, seed=3):
    return Keys(seed, 0, torch.arange(n))


def _l1_excess(cut, row, eps):
    return np.maximum(np.abs(row) - cut, 0).sum() - eps


def test_l1_projection_is_the_nearest_point():
    """Against bisection on the soft threshold (Duchi et al., section 4), and against a generic solver."""
    delta = _random(8, 0.5)
    for eps in (0.3, 2.0, 5.0, 100.0):
        got = project_l1(delta, eps).flatten(1).numpy()
        for row, ours in zip(delta.flatten(1).numpy(), got, strict=True):
            if np.abs(row).sum() <= eps:
                np.testing.assert_array_equal(ours, row)
                continue
            cut = optimize.brentq(_l1_excess, 0, np.abs(row).max(), args=(row, eps))
            np.testing.assert_allclose(ours, np.sign(row) * np.maximum(np.abs(row) - cut, 0), atol=1e-9)
    small = torch.tensor([[[[0.9, -0.5, 0.1]]]], dtype=torch.float64)
    solved = optimize.minimize(
        lambda u: ((u[:3] - u[3:] - small.numpy().ravel()) ** 2).sum(),
        np.full(6, 0.05),
        bounds=[(0, None)] * 6,
        constraints={"type": "ineq", "fun": lambda u: 0.7 - u.sum()},
        tol=1e-12,
    ).x
    np.testing.assert_allclose(project_l1(small, 0.7).numpy().ravel(), solved[:3] - solved[3:], atol=1e-5)


def test_l1_projection_by_hand():
    # |(3, -1, 0)| = 4 > 2: the threshold is 1, so (2, 0, 0) remains.
    delta = torch.tensor([3.0, -1.0, 0.0]).reshape(1, 1, 1, 3)
    assert project_l1(delta, 2.0).flatten().tolist() == [2.0, 0.0, 0.0]


def test_l2_projection_is_a_scaling():
    delta = _random()
    expected = torch.stack([d * min(1.0, 1.5 / float(d.norm())) for d in delta])
    torch.testing.assert_close(project_l2(delta, 1.5), expected)


def test_linf_projection_clips_each_pixel():
    torch.testing.assert_close(Linf(0.5).project(_random(), 0.5), _random().clamp(-0.5, 0.5))


@pytest.mark.parametrize("norm", NORMS)
def test_projection_stays_inside_and_does_not_move_what_is(norm):
    delta = _random(30, 2.0)
    eps = per_example(torch.linspace(0.05, 30, 30, dtype=torch.float64))
    once = norm(1.0).project(delta, eps)
    assert (norm(1.0).of(once) <= eps.flatten() * (1 + 1e-12)).all()
    torch.testing.assert_close(norm(1.0).project(once, eps), once, rtol=0, atol=1e-14)
    for i in (0, 15):
        torch.testing.assert_close(norm(1.0).project(delta[i : i + 1], float(eps[i])), once[i : i + 1])


@pytest.mark.parametrize("norm", NORMS)
def test_zero_and_huge_perturbations_project_to_numbers(norm):
    for delta in (torch.zeros(2, *SHAPE), torch.full((2, *SHAPE), 1e18)):
        projected = norm(0.3).project(delta, 0.3)
        assert torch.isfinite(projected).all()
        assert (norm(0.3).of(projected) <= 0.3 * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_ties_project_symmetrically(norm):
    projected = norm(1.0).project(torch.ones(1, *SHAPE, dtype=torch.float64) * 3, 1.0)
    assert len(projected.unique()) == 1
    assert float(norm(1.0).of(projected)) == pytest.approx(1.0)


@pytest.mark.parametrize("norm", NORMS)
def test_starts_lie_in_the_ball_and_fill_it(norm):
    like = torch.zeros(4000, *SHAPE)
    points = norm(0.7).uniform(_keys(4000), like, 0.7)
    assert points.dtype == like.dtype
    size = norm(0.7).of(points) / 0.7
    assert (size <= 1 + 1e-6).all()
    # The radius of a uniform point of a ball in D dimensions has the distribution r^D, whatever the norm.
    assert stats.kstest((size.double() ** D).clamp(max=1).numpy(), "uniform").pvalue > 1e-3
    assert abs(points.mean(0)).max() < 0.7 * 5 / 4000**0.5
    assert (points > 0).float().mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_starts_follow_each_examples_radius(norm):
    eps = per_example(torch.tensor([0.1, 0.4]))
    both = norm(1.0).uniform(_keys(2), torch.zeros(2, *SHAPE), eps)
    unit = norm(1.0).uniform(_keys(2), torch.zeros(2, *SHAPE), 1.0)
    torch.testing.assert_close(both, unit * eps)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_the_steepest_step_gains_the_dual_norm(norm):
    grad = _random()
    step = norm(1.0).steepest(grad)
    torch.testing.assert_close(norm(1.0).of(step), torch.ones(20, dtype=torch.float64))
    dual = {Linf: 1, L2: 2}[norm]
    torch.testing.assert_close((grad * step).flatten(1).sum(1), lp(grad, dual))


def test_the_l1_step_is_spread_over_the_largest_gradients():
    grad = torch.tensor([0.1, -5.0, 3.0, 0.0, 4.0, -0.2, 0.3, 0.4, 0.5, 0.6]).reshape(1, 1, 2, 5)
    step = L1(1.0, share=0.3).steepest(grad).flatten()
    torch.testing.assert_close(step, torch.tensor([0, -1 / 3, 1 / 3, 0, 1 / 3, 0, 0, 0, 0, 0]))
    only = L1(1.0, share=0.001).steepest(grad).flatten()
    assert only.tolist() == [0, -1, 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_a_zero_step(norm):
    step = norm(1.0).steepest(torch.zeros(2, *SHAPE))
    assert torch.equal(step, torch.zeros(2, *SHAPE))


@pytest.mark.parametrize("norm", [*NORMS, L0])
@pytest.mark.parametrize("power", [-90, -60, 0, 60])
def test_the_steepest_step_has_its_length_however_small_the_gradient(norm, power):
    """The gradients of a saturated softmax are below 1e-12, and their squares are 0 in float32."""
    grad = _random().float()
    assert torch.equal(norm(1.0).steepest(grad * 2.0**power), norm(1.0).steepest(grad))


@pytest.mark.parametrize("norm", NORMS)
def test_sizes_are_norms(norm):
    order = {Linf: np.inf, L2: 2, L1: 1}[norm]
    expected = [np.linalg.norm(d.numpy().ravel(), order) for d in _random()]
    np.testing.assert_allclose(norm(1.0).of(_random()).numpy(), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_a_radius_is_above_zero(norm, eps):
    with pytest.raises(ConfigError, match="eps must be above 0"):
        norm(eps)


def test_radii_are_fixed_or_drawn():
    like = torch.zeros(5, *SHAPE, dtype=torch.float64)
    assert Linf(0.1).radius(_keys(5), like) == 0.1
    drawn = L2(Uniform(0.1, 0.3)).radius(_keys(5), like)
    assert drawn.shape == (5, 1, 1, 1)
    assert drawn.dtype == torch.float64
    assert len(drawn.unique()) == 5
    assert L2(Uniform(0.1, 0.3)).largest == 0.3


def test_norms_have_names():
    assert isinstance(norm_named("l1", 0.5), L1)
    assert str(norm_named("linf", 8 / 255)) == "linf(0.0313725)"
    with pytest.raises(ConfigError, match="did you mean linf"):
        norm_named("lnf", 0.5)
