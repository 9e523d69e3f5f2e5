"""Free adversarial training (Shafahi et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    PGD,
    Adversarial,
    ConfigError,
    Count,
    Ingredient,
    Madry,
    OfEps,
    Paper,
    Plan,
    Positive,
    Step,
    ZeroStart,
    norm_named,
)


class Replay:
    """m steps on each batch (algorithm 1); each backward pass gives both gradients.

    For each replay: g_theta and g_x of the risk at clip(x + delta); delta <- P(delta + eps sign(g_x)),
    P onto the ball; theta takes an optimizer step. delta starts at 0 and goes on from replay to replay
    and from batch to batch, row by row, although the images change. The logs are the last replay's.
    With several processes, each has its own delta.

    Attributes:
        delta: (rows of the largest batch, C, H, W), or None before the first batch.
    """

    wrappable = False
    per_rank = True
    reads_attack = ("norm", "step_size", "clip")

    def __init__(self, replays: int) -> None:
        self.replays = self.updates = replays
        self.delta: Tensor | None = None

    def __call__(self, step: Step) -> None:
        attack = step.parts.attack
        if not isinstance(attack, PGD):
            raise ConfigError(f"free_at takes its steps itself, so the attack cannot be {attack}; use pgd_at with that")
        x, norm = step.x, attack.norm
        radius = norm.radius(step.keys, x)
        asked = OfEps(1.0) if attack.step_size is None else attack.step_size
        size = asked.share * radius if isinstance(asked, OfEps) else asked
        shared = self._for(x)
        delta = shared[: len(x)]
        for _ in range(self.replays):
            step.logs.clear()
            delta = delta.detach().requires_grad_()
            adv = (x + delta).clamp(*attack.clip)
            step.backward(step.risk(Adversarial(adv, (adv - x).detach())))
            assert delta.grad is not None
            ascent = norm.steepest(delta.grad.nan_to_num(0.0, 0.0, 0.0))  # half precision overflows now and then
            delta = norm.project(delta.detach() + size * ascent, radius)
            step.apply()
        self.delta = torch.cat([delta, shared[len(x) :]])

    def _for(self, x: Tensor) -> Tensor:
        """The shared delta, with new rows of zeros where this batch has more than any before."""
        if self.delta is None:
            return torch.zeros_like(x)
        missing = x.new_zeros(max(len(x) - len(self.delta), 0), *x.shape[1:])
        return torch.cat([self.delta.to(x), missing])

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.delta is None else {"delta": self.delta}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.delta = state.get("delta")

    def __str__(self) -> str:
        return f"free({self.replays} replays of each batch, one delta for all)"


class FreeAT(Ingredient):
    """Free adversarial training: `replays` steps a batch, at the cost of as many ordinary ones.

    An epoch is one pass over the data, with `replays` steps on each batch: divide the epochs of
    another method by `replays` to spend the same. It brings its own update, so nothing that wraps
    one (awp, dac) goes with it; criteria do.
    """

    name = "free_at"
    paper = Paper(
        "Adversarial Training for Free!",
        "Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein",
        "NeurIPS",
        2019,
        "https://arxiv.org/abs/1904.12843",
    )

    replays: Annotated[Count, Field(description="m: 8 on CIFAR-10, 4 on ImageNet; divide the epochs by it")] = 8
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[Positive, Field(description="radius in clip-value units")] = 8 / 255
    step_size: Annotated[Positive | None, Field(description="eps when left out")] = None

    def apply(self, plan: Plan) -> Plan:
        attack = PGD(
            norm_named(self.norm, self.eps),
            1,
            self.step_size or self.eps,
            start=ZeroStart(),
            bn="train",
            clip=plan.facts.clip,
        )
        return plan.fill(self, attack=attack, risk=Madry(), update=Replay(self.replays))
