"""Figures that are kept come back for the same network and the same attack alone, whatever they are called."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from evaluated import data, evaluation, trained
from torch import nn

from art_ext.api import PGD, Linf, Objective, cw
from art_ext.engine.net import Net
from art_ext.evaluation.identity import fingerprint
from art_ext.evaluation.lineup import Lineup, Planned
from art_ext.evaluation.probes import rescaled_ce


@pytest.fixture(scope="module")
def module():
    return trained()


class Scaled(nn.Module):
    """A network behind a change of the pixels that has no weights."""

    def __init__(self, module, change):
        super().__init__()
        self.module, self.change = module, change

    def forward(self, x):
        return self.module(self.change(x))


def figures(results):
    return [(item.name, item.accuracy, item.forwards) for item in results]


def blurred(x):
    return 0.9 * x + 0.1 * F.avg_pool2d(x, 3, 1, 1)


def through(x):
    """The same pixels as a detached blur's, with the gradient of the blur."""
    soft = blurred(x)
    return soft + (blurred(x).detach() - soft).detach()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda x: x, lambda x: 0.7 * x),
        (lambda x: blurred(x).detach(), through),
    ],
    ids=["other answers", "other gradients alone"],
)
def test_the_same_weights_behind_another_change_are_another_network(module, tmp_path, first, second):
    evaluation(Scaled(module, first), n=40, folder=tmp_path).run()
    again = evaluation(Scaled(module, second), n=40, folder=tmp_path).run()
    fresh = evaluation(Scaled(module, second), n=40).run()
    assert figures(again.attacks) == figures(fresh.attacks)
    assert again.worst_case == fresh.worst_case


def test_another_undefended_network_brings_its_own_figures(module, tmp_path):
    other = trained()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.0 + 0.3 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(3)))
    evaluation(module, n=40, folder=tmp_path, baseline=Net(trained())).run()
    found = evaluation(module, n=40, folder=tmp_path, baseline=Net(other)).run().baseline
    fresh = evaluation(module, n=40, baseline=Net(other)).run().baseline
    assert figures(found.attacks) == figures(fresh.attacks)
    wrapped = Net(Scaled(other, lambda x: 0.7 * x))
    found = evaluation(module, n=40, folder=tmp_path, baseline=wrapped).run().baseline
    assert figures(found.attacks) != figures(fresh.attacks)
    assert figures(found.attacks) == figures(evaluation(module, n=40, baseline=wrapped).run().baseline.attacks)


def level(size):
    return Objective("level", lambda out, y: cw.measure(out, y).clamp(max=size))


def test_attacks_are_the_same_by_their_fields_and_not_by_their_words():
    plain = PGD(Linf(0.1), 5, keep="best")
    assert fingerprint(plain) == fingerprint(PGD(Linf(0.1), 5, keep="best"))
    stopping = replace(plain, stop_when_wrong=True)
    assert str(stopping) == str(plain)
    assert fingerprint(stopping) != fingerprint(plain)
    assert fingerprint(level(1.0)) == fingerprint(level(1.0)) != fingerprint(level(2.0))
    assert str(level(1.0)) == str(level(2.0))
    lineup = Lineup()
    names = [lineup.add(Planned("pgd", attack, "gradient")) for attack in (plain, stopping, replace(plain), plain)]
    assert names == ["pgd", "pgd_2", "pgd", "pgd"]


def test_networks_inside_attacks_count_with_their_weights_and_their_code(module):
    other = trained()
    assert fingerprint(Net(module)) == fingerprint(Net(other))
    with torch.no_grad():
        next(other.parameters())[0] += 1e-3
    assert fingerprint(Net(module)) != fingerprint(Net(other))
    assert fingerprint(Scaled(module, lambda x: 2 * x)) != fingerprint(Scaled(module, lambda x: 3 * x))
    assert fingerprint(Net(module, torch.zeros(1))) != fingerprint(Net(module, torch.ones(1)))
    assert fingerprint(partial(blurred, x=1)) != fingerprint(partial(blurred, x=2))
    assert fingerprint(module.eval()) == fingerprint(trained().train())


TOLD = "fingerprint(PGD(Linf(0.1), 5, objective=rescaled_ce), {'a', 'b', 'c'}, nn.Linear)"
IMPORTS = """
from torch import nn
from art_ext.evaluation.identity import fingerprint
from art_ext.evaluation.probes import rescaled_ce
from art_ext.parts.attacks import PGD
from art_ext.parts.norms import Linf
"""


def test_another_process_finds_the_same():
    code = [sys.executable, "-c", f"{IMPORTS}print({TOLD})"]
    found = subprocess.run(code, env={"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    here = {"PGD": PGD, "Linf": Linf, "rescaled_ce": rescaled_ce, "fingerprint": fingerprint, "nn": nn}
    assert found.stdout.decode().strip() == eval(TOLD, here)


def test_a_network_that_breaks_a_batch_is_still_refused_in_words(module):
    from art_ext.errors import ModelError

    class Few(nn.Module):
        def forward(self, x):
            return module(x)[:, :2]

    with pytest.raises(ModelError, match="3 classes"):
        evaluation(Few(), rows=data(20))
