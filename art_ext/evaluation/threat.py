"""What an attacker may do."""

from __future__ import annotations

from dataclasses import dataclass

from art_ext.errors import ConfigError
from art_ext.parts.norms import Norm, norm_named
from art_ext.plan import Plan


@dataclass(frozen=True)
class Threat:
    """What an attacker may do: a norm and its radius, in clip-value units.

    Raises:
        ConfigError: for a norm that is not known, or a radius that bounds nothing.
    """

    norm: str
    eps: float
    clip: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.eps < float("inf"):
            raise ConfigError(f"eps must be above 0 and finite, got {self.eps:g}; it is in pixel units, such as 8/255")
        low, high = self.clip
        if self.norm == "linf" and self.eps > high - low:
            word = f"; did you mean {self.eps:g}/255?" if high - low == 1 and self.eps <= 255 else ""
            raise ConfigError(
                f"eps {self.eps:g} is more than the range of pixels, {low:g} to {high:g}, so it allows any image{word}"
            )
        self.ball()

    def ball(self) -> Norm:
        return norm_named(self.norm, self.eps)

    def half(self) -> Norm:
        """The ball of half the radius; of whole pixels in l0, one at least."""
        return norm_named(self.norm, max(1.0, self.eps // 2) if self.norm == "l0" else self.eps / 2)

    def __str__(self) -> str:
        return f"{self.norm} {self.eps:g}"


def threat_of(plan: Plan) -> Threat | None:
    """The threat a plan trains against: its attack's norm, at the largest eps it draws."""
    norm = getattr(plan.compose().attack, "norm", None)
    return Threat(norm.name, norm.largest, plan.facts.clip) if isinstance(norm, Norm) else None
