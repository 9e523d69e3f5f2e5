"""Whether a network hands out the extras that a plan's parts read; asked before the first step."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from art_ext.engine.freeze import frozen
from art_ext.engine.net import Net
from art_ext.errors import ModelError
from art_ext.parts.surgery import probe
from art_ext.plan import Plan
from art_ext.types import Facts

WAYS_OUT: Mapping[str, str] = {
    "members": "build an ensemble of several networks: art_ext.ensemble([net_a, net_b, net_c]), "
    "or in a recipe model: {name: ensemble, of: NAME, members: 3}",
}
"""What to do about an extra that is missing, by its name."""


def check_offers(net: Net, facts: Facts, needs: Mapping[str, str]) -> None:
    """Runs one pass and refuses a network without the extras that are needed.

    Args:
        needs: extras, each with who reads it.

    Raises:
        ModelError: naming who needs what, and where it comes from.
    """
    if not needs:
        return
    with frozen(net), net.offering_features(), torch.no_grad():
        offered = net(probe(net.module, facts)).extras
    for extra, who in needs.items():
        if extra not in offered:
            way = WAYS_OUT.get(extra, f'let its forward call art_ext.api.offer("{extra}", tensor)')
            raise ModelError(f"{who} needs the {extra} of a network, but a {type(net.module).__name__} has none; {way}")


def needs_of(plan: Plan) -> dict[str, str]:
    """The extras that a plan's parts read, each with the ingredient that asks for it."""
    parts = plan.compose()
    found: dict[str, str] = {}
    objective = None if parts.attack is None else parts.attack.objective
    for slot, part in (("criterion", parts.criterion), ("risk", parts.risk), ("attack", objective)):
        for extra in getattr(part, "needs", ()):
            found.setdefault(extra, plan.owner(slot))
    for detector in parts.detectors:
        for extra in detector.needs:
            found.setdefault(extra, plan.owner("detectors"))
    return found
