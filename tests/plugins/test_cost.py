"""What a training took: passes of single images and updates of the weights, against what the methods' sheets count."""

from __future__ import annotations

import pytest
from tiny import FACTS, batches, data, fit, network

from art_ext.api import Plan
from art_ext.errors import ConfigError
from art_ext.host.manager import default_manager
from art_ext.testing import trial_of
from art_ext_baselines import AWP, PGDAT, TRADES, FreeAT
from art_ext_cat import CAT
from art_ext_dac import DAC

KINDS = default_manager().catalogue.ingredients
N = len(data()[0])
PGD = {"eps": 0.1, "steps": 3}


def taken(ingredients):
    """Forwards and backwards an image, and updates a batch, in one epoch."""
    _, history = fit(ingredients, network(), epochs=1)
    metrics = history.epochs[0].metrics
    per_epoch = batches().per_epoch
    return metrics["train/forwards"] / N, metrics["train/backwards"] / N, metrics["train/updates"] / per_epoch


@pytest.mark.parametrize(
    ("ingredients", "expected"),
    [
        ([], (1, 1, 1)),
        ([PGDAT(**PGD)], (4, 4, 1)),
        ([PGDAT(**PGD, clean_fraction=0.5)], (2.5, 2.5, 1)),  # half of the rows is attacked, each is trained on once
        ([TRADES(**PGD)], (6, 5, 1)),  # the clean reference has no way back
        ([PGDAT(**PGD), DAC()], (8, 8, 2)),
        ([PGDAT(**PGD), DAC(form="paper")], (8, 8, 2)),
        ([PGDAT(**PGD), AWP()], (5, 5, 1)),  # the proxy's gradient
        ([FreeAT(eps=0.1, replays=4)], (4, 4, 4)),
        ([CAT(**PGD)], (7, 6, 1)),  # both rows, and the mask step's two looks, one of them back to the mask
    ],
    ids=str,
)
def test_passes_and_updates_are_counted(ingredients, expected):
    assert taken(ingredients) == expected


@pytest.mark.parametrize("name", sorted(KINDS))
def test_an_update_says_how_many_updates_it_makes(name):
    for ingredients in ([trial_of(KINDS[name])], [trial_of(KINDS["pgd_at"]), trial_of(KINDS[name])]):
        try:
            plan = Plan.of(ingredients, FACTS)
            if plan.compose().needs:
                pytest.skip("it needs a network that offers more than logits")
            got = taken(ingredients)
        except ConfigError:  # it needs one that attacks
            continue
        assert got[2] == plan.compose().updates
        return
    pytest.fail(f"{name} trains neither alone nor with an attack")
