"""The paper's recommended setting, as one ingredient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from art_ext.api import PGD, ConfigError, Count, Ingredient, Linf, Madry, NonNegative, Number, Plan, Positive
from art_ext_tricks.activations import Name, swapped
from art_ext_tricks.crafting import Mode, craft_in
from art_ext_tricks.formulas import PAPER
from art_ext_tricks.optimizers import Decayed, decay_on
from art_ext_tricks.pace import scaled_by
from art_ext_tricks.targets import smoothed

BATCH = 128
"""Images in the batch that the paper's learning rate is meant for."""


@dataclass(frozen=True)
class BagPGD(PGD):
    """The attack of `bag` alone, told apart from that of another ingredient."""


class Bag(Ingredient):
    """The recommended setting of the paper: weight decay 5e-4, crafting in eval mode, 110 epochs of SGD, its learning
    rate scaled with the batch.

    Alone it is PGD-AT; where another ingredient sets attack and risk (`[trades, bag]`), it changes
    how they are trained, and refuses `eps`, `steps` and `step_size`. For PGD-AT alone the paper's best
    row adds `activation: softplus, smoothing: 0.1, bn: train`.
    """

    name = "bag"
    paper = PAPER
    trial: ClassVar[Mapping[str, object]] = {"weight_decay": 0.002}

    eps: Annotated[Positive, Field(description="of its own PGD-AT: radius in clip-value units, L-inf")] = 8 / 255
    steps: Count = 10
    step_size: Annotated[Positive | None, Field(description="2/255 in the paper; eps / 4 when left out")] = None
    weight_decay: NonNegative = 5e-4
    decay_on: Annotated[Decayed, Field(description="what decays, as the option `on` of weight_decay")] = "all"
    scale_lr: Annotated[bool, Field(description="the learning rate is meant for 128 images, and scales along")] = True
    bn: Annotated[Mode, Field(description="mode of normalisation layers while crafting")] = "eval"
    smoothing: Annotated[Number, Field(ge=0, lt=1, description="of labels; 0.1 to 0.2 in PGD-AT, none in TRADES")] = 0.0
    activation: Annotated[Literal["as it is"] | Name, Field(description="instead of the network's own")] = "as it is"

    def apply(self, plan: Plan) -> Plan:
        attack = BagPGD(Linf(self.eps), self.steps, self.step_size or self.eps / 4, clip=plan.facts.clip)
        plan = plan.default(self, attack=attack, risk=Madry()).alter(self, "attack", self._refuse_idle)
        plan = craft_in(plan, self, self.bn)
        plan = plan.tune(
            self,
            weight_decay=self.weight_decay,
            epochs=110,
            batch_size=BATCH,
            schedule={"steps": {"milestones": [100.0, 105.0], "factor": 0.1}},
        )
        plan = decay_on(plan, self, self.decay_on)
        if self.scale_lr:
            plan = scaled_by(plan, self, BATCH)
        if self.smoothing:
            plan = smoothed(plan, self, self.smoothing)
        return plan if self.activation == "as it is" else swapped(plan, self, self.activation, None)

    def _refuse_idle(self, attack: Any) -> Any:
        """The attack as it is.

        Raises:
            ConfigError: for options of an attack that another ingredient sets.
        """
        for option in () if isinstance(attack, BagPGD) else self.changed("eps", "steps", "step_size"):
            raise ConfigError(f"bag.{option} does nothing to the attack of another ingredient; set it there")
        return attack
