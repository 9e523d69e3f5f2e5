"""The traps that all methods share, met by every installed ingredient: by discovery.

Two classes, a last batch of one (where a split leaves a part of the batch empty), saturated logits,
and logits that all tie. Each trains, its losses and weights finite, or is refused in one line.
"""

from __future__ import annotations

import functools

import pytest
import torch

from art_ext.api import Outputs
from art_ext.errors import ConfigError
from art_ext.host.manager import default_manager
from art_ext.testing import train_tiny, trial_of
from art_ext_adp import adp_loss, ensemble_entropy, member_ce
from art_ext_baselines import guided_complement_entropy, trades_boundary
from art_ext_cat.losses import divergence
from art_ext_ccat import bhattacharyya
from art_ext_dac.certainty import certainty_std, certainty_variance
from art_ext_pc_lc import logit_constraint, pc_loss
from art_ext_rce import RCELoss, log_odds, non_max_entropy, rce_loss

KINDS = default_manager().catalogue.ingredients
TRAPS = {
    "two classes": {"n_classes": 2},
    "a batch of one": {"images": 9},
    "a single image": {"images": 1},
    "saturated logits": {"sharpness": 1e4},
    "tied logits": {"sharpness": 0.0},
}


def refusal(ingredients, **trap):
    """Why they are not trained, or "" where they are."""
    try:
        train_tiny(ingredients, **trap)
    except ConfigError as error:
        return str(error)
    return ""


@functools.cache
def bases(name):
    """What an ingredient needs beside it: nothing, or one that attacks."""
    return [trial_of(KINDS["pgd_at"])] if refusal([trial_of(KINDS[name])]) else []


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_ingredient_survives_or_refuses(name, trap):
    why = refusal([*bases(name), trial_of(KINDS[name])], **TRAPS[trap])
    assert "\n" not in why
    assert not why or "n_classes" in TRAPS[trap], f"{trap} is no reason to refuse: {why}"


Y = torch.tensor([0, 2, 1])


def members(z):
    """(N, 3, K) an ensemble whose members differ."""
    return torch.stack([z, z.flip(1), z.roll(1, 1)], 1)


FORMULAS = {
    "rce_loss": lambda z: rce_loss(z, Y),
    "rce at a temperature": lambda z: RCELoss(7.0)(Outputs(z), Y),
    "log_odds": log_odds,
    "non_max_entropy": non_max_entropy,
    "pc_loss": lambda z: pc_loss(z, Y, 0.995),
    "logit_constraint": lambda z: logit_constraint(z, Y),
    "guided_complement_entropy": lambda z: guided_complement_entropy(z, Y, 1 / 3),
    "trades_boundary": lambda z: trades_boundary(z, z.flip(1)),
    "divergence": lambda z: divergence(z, z.flip(1)),
    "certainty_variance": certainty_variance,
    "certainty_std": certainty_std,
    "member_ce": lambda z: member_ce(members(z), Y),
    "smoothed member_ce": lambda z: member_ce(members(z), Y, 0.9),
    "ensemble_entropy": lambda z: ensemble_entropy(members(z)),
    "adp_loss": lambda z: adp_loss(members(z), Y),
    "bhattacharyya": lambda z: bhattacharyya(z, torch.full((3, 4), 0.25)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMULAS)
def test_half_precision_is_given_up_before_it_spoils_a_formula(name, dtype):
    """The logits are what half precision made of them; all that follows is as exact as in float32."""
    z = (3 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    got = FORMULAS[name](z)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, FORMULAS[name](z.double()).float(), rtol=1e-5, atol=1e-5)
