"""Who is timed: art_ext through its engine, ART's trainers, and loops as papers' code has them.

All train the same network with the same kind of optimizer, SGD(fused=True): ART's default is the
slower one, but that is the user's choice and not ART's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from art.attacks.evasion import ProjectedGradientDescent
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch import (
    ProjectedGradientDescentPyTorch,
)
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerMadryPGD, AdversarialTrainerTRADESPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.offers import needs_of
from art_ext.engine.run import Run, RunSettings
from art_ext.ingredient import Ingredient
from art_ext.parts.surgery import find_head
from art_ext.plan import Plan
from art_ext.types import Facts
from art_ext_baselines import PGDATAttack
from benchmarks.limit import sgd
from benchmarks.nets import Task
from benchmarks.timing import Contender

SEED = 0


def classifier_for(task: Task, model: nn.Module | None = None) -> PyTorchClassifier:
    model = task.model() if model is None else model
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=task.shape,
        nb_classes=task.n_classes,
        optimizer=sgd(model),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def art_ext_fit(
    task: Task,
    name: str,
    ingredients: Sequence[Ingredient],
    model: nn.Module | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
) -> Contender:
    """One epoch of a `Fit`: batches, steps, logs and the epoch's report.

    Args:
        model: after surgery; the task's own by default.
    """
    model, (x, y) = task.model() if model is None else model, task.data()
    plan = Plan.of(ingredients, Facts(task.n_classes, task.shape))
    needs = frozenset(needs_of(plan))
    head = find_head(model, plan.facts)[1] if "features" in needs else None
    run = Run(RunSettings(), SEED, torch.device("cpu"))
    fit = Fit(plan, Net(model, head=head, wanted=needs), optimizer(model), run, epochs=1)
    batches = ArrayBatches(x, y, task.batch_size, SEED)
    return Contender(name, lambda: fit(batches), task.batches)


def _art(task: Task, name: str, trainer: Any) -> Contender:
    x, y = (part.numpy() for part in task.data())
    return Contender(name, lambda: trainer.fit(x, y, batch_size=task.batch_size, nb_epochs=1), task.batches)


def art_madry(task: Task) -> Contender:
    trainer = AdversarialTrainerMadryPGD(
        classifier_for(task), eps=task.eps, eps_step=task.step_size, max_iter=task.steps, num_random_init=1
    )
    return _art(task, "ART AdversarialTrainerMadryPGD", trainer)


def _art_pgd(task: Task, classifier: PyTorchClassifier) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(
        classifier,
        eps=task.eps,
        eps_step=task.step_size,
        max_iter=task.steps,
        num_random_init=1,
        batch_size=task.batch_size,
        verbose=False,
    )


def art_adversarial(task: Task) -> Contender:
    classifier = classifier_for(task)
    return _art(
        task,
        "ART AdversarialTrainer, attack batch = training batch",
        AdversarialTrainer(classifier, _art_pgd(task, classifier), ratio=1.0),
    )


def art_trades(task: Task) -> Contender:
    classifier = classifier_for(task)
    trainer = AdversarialTrainerTRADESPyTorch(classifier, _art_pgd(task, classifier), beta=6.0)
    return _art(task, "ART AdversarialTrainerTRADESPyTorch", trainer)


def pgd_by_backward(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float, size: float, steps: int
) -> Tensor:
    """PGD as most papers' code has it: `loss.backward()`, then the gradient of the image."""
    adv = (x + start).clamp(0, 1)
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        F.cross_entropy(model(adv), y).backward()
        assert adv.grad is not None
        adv = adv.detach() + size * adv.grad.sign()
        adv = torch.min(torch.max(adv, x - eps), x + eps).clamp(0, 1)
    return adv.detach()


def pgd_by_grad(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float, size: float, steps: int) -> Tensor:
    """The same with `autograd.grad`, which spares the gradients of the weights."""
    adv = (x + start).clamp(0, 1)
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
        adv = adv.detach() + size * grad.sign()
        adv = torch.min(torch.max(adv, x - eps), x + eps).clamp(0, 1)
    return adv.detach()


def research_loop(task: Task, *, grad: bool) -> Contender:
    """Adversarial training in twenty lines."""
    model, (x, y) = task.model(), task.data()
    optimizer, attack = sgd(model), pgd_by_grad if grad else pgd_by_backward

    def run() -> None:
        for rows in torch.randperm(len(x)).split(task.batch_size):
            images, labels = x[rows], y[rows]
            start = torch.empty_like(images).uniform_(-task.eps, task.eps)
            model.eval()
            adv = attack(model, images, labels, start, task.eps, task.step_size, task.steps)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(adv), labels).backward()
            optimizer.step()

    return Contender(f"plain loop, {'autograd.grad' if grad else 'loss.backward()'}", run, task.batches)


def trained(task: Task, steps: int) -> nn.Module:
    """A network after a little ordinary training, so that an attack has something to do."""
    model, (x, y) = task.model().train(), task.data(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(x), (task.batch_size,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


class CountedGradients(nn.Module):
    """Counts the passes whose input asks for a gradient, of a network and of all its copies."""

    passes: ClassVar[int] = 0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        CountedGradients.passes += int(x.requires_grad)
        logits: Tensor = self.model(x)
        return logits


def attacks(task: Task, model: nn.Module, n: int) -> tuple[Contender, Contender]:
    """PGD on n images through ART's interface, numpy in and out: art_ext's and ART's."""
    x, y = (part[:n].numpy() for part in task.data())
    ours = PGDATAttack(
        classifier_for(task, model), eps=task.eps, steps=task.steps, step_size=task.step_size, batch_size=n
    )
    arts = ProjectedGradientDescentPyTorch(
        classifier_for(task, model),
        eps=task.eps,
        eps_step=task.step_size,
        max_iter=task.steps,
        num_random_init=1,
        batch_size=n,
        verbose=False,
    )
    return (
        Contender("art_ext PGDATAttack.generate", lambda: ours.generate(x, y)),
        Contender("ART ProjectedGradientDescentPyTorch.generate", lambda: arts.generate(x, y)),
    )
