"""Do the fast paths make the same adversarial examples as a plain loop from the same start?"""

from __future__ import annotations

import torch

from art_ext.engine.freeze import Crafter
from art_ext.engine.net import Net, in_channels_last
from art_ext.parts.attacks import PGD
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Linf
from art_ext.parts.objectives import ce
from benchmarks.contenders import pgd_by_backward, trained
from benchmarks.nets import Task


def same_pixels(task: Task, training_steps: int = 30) -> float:
    """The share of pixels that differ by less than 1e-6, after all steps, on a briefly trained network."""
    model = trained(task, training_steps)
    x, y = (part[: task.batch_size] for part in task.data())
    attack = PGD(Linf(task.eps), task.steps, task.step_size)
    keys = Keys(0, 0, torch.arange(len(x)))
    start = attack.start(attack.norm, keys.stream("start", 0), x, task.eps)
    plain = pgd_by_backward(model, x, y, start, task.eps, task.step_size, task.steps)
    model.train()
    images = in_channels_last(x)
    crafter = Crafter()
    net = Net(model)
    with crafter(net, "eval", images) as forward:
        fast = attack.craft(forward, images, ce.bind(forward, images, y), keys).x
    if not crafter.folded:
        raise RuntimeError("nothing was folded, so the fast path was not tested")
    return float(((fast - plain).abs() < 1e-6).double().mean())
