"""A tiny network, its data, and an evaluation of it, for the tests of evaluations."""

import torch
from torch import nn

from art_ext.engine.net import Net
from art_ext.evaluation.evaluation import Evaluation, Options
from art_ext.evaluation.record import ModelInfo
from art_ext.evaluation.subject import Rows, Subject, adaptive_of
from art_ext.evaluation.suites import Suite
from art_ext.evaluation.threat import Threat
from art_ext.plan import Plan
from art_ext.types import Facts

FACTS = Facts(3, (1, 6, 6))
TINY = Suite("tiny", "short attacks", (), 20, {"steps": 10, "restarts": 1}, (20, 1), (5, 8))
EPS = 0.06


def data(n=120, seed=2):
    """Noise with a bright row that says which of three classes it is."""
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    for label in range(3):
        x[y == label, 0, 2 * label] += 0.4
    return x.clamp(0, 1), y


def trained():
    """A network that classifies `data` well and is neither robust nor masked."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    x, y = data(240, seed=5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module.eval()


def evaluation(module, *, ingredients=None, n=120, rows=None, eps=EPS, suite=TINY, net=None, attacks=None, **options):
    x, y = rows or data(n)
    plan = Plan.of(ingredients or (), FACTS)
    beside = {name: options.pop(name) for name in ("baseline", "calibration", "seen", "info") if name in options}
    info = ModelInfo("a network", "sha256:0", plan.used)
    subject = Subject(net or Net(module), plan, info, ingredients is not None, adaptive_of(ingredients or ()))
    options = Options(suite, **options)
    return Evaluation(subject, Rows(x, y), Threat("linf", eps), options, attacks=attacks, **beside)
