"""What a run keeps beside its weights, so that they can be opened again: the network as data, the detectors' states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_ext.border.timm import architecture
from art_ext.border.weights import ARCHITECTURE, DETECTORS, Network, write_weights
from art_ext.data.entry import Split
from art_ext.data.holdout import stratified
from art_ext.engine.net import Net
from art_ext.errors import ConfigError, ModelError
from art_ext.evaluation.suite import Evaluator
from art_ext.files import replacing, write_atomically
from art_ext.plan import Plan
from art_ext.types import Facts

__all__ = ["describe_network", "fit_detectors", "keep_detectors", "keep_network"]

FITTED_ON = 10_000
"""Training images, at most, that detectors with a bank are fitted on."""


def describe_network(
    model: nn.Module, facts: Facts, recipe: Mapping[str, Any], earlier: tuple[Any, ...] = ()
) -> Network:
    """A trained network as data; its architecture stays open where timm does not know it, and the recipe names it.

    Args:
        earlier: see `Network.earlier`.
    """
    try:
        known: dict[str, Any] | None = architecture(model, facts.input_shape)
    except ModelError:
        known = None
    return Network(known, facts, recipe, f"{type(model).__module__}.{type(model).__qualname__}", earlier)


def keep_network(folder: Path, network: Network) -> None:
    """Writes architecture.json."""
    write_atomically(folder / ARCHITECTURE, json.dumps(network.as_record(), indent=1, default=str) + "\n")


def fit_detectors(plan: Plan, net: Net, training: Split, held_out: Split, device: torch.device) -> dict[str, Tensor]:
    """Fits the plan's detectors on clean training images and sets their thresholds on held-out ones.

    A detector that finds nothing to set a threshold by (no image is right) is left out.

    Returns:
        Their states, as `NAME/ENTRY`.
    """
    detectors = plan.compose().detectors
    if not detectors:
        return {}
    calibration = Evaluator(net, held_out.x, held_out.y, device=device)
    clean, y = calibration.outputs(), held_out.y
    states: dict[str, Tensor] = {}
    banked = [detector for detector in detectors if detector.has_bank]
    if banked:
        rows = stratified(training.y, max(len(training) - FITTED_ON, 0), 0)[0]
        some = training.at(rows)
        out = Evaluator(net, some.x, some.y, device=device).outputs()
        for detector in banked:
            detector.fit(out, some.y)
    for detector in detectors:
        try:
            detector.calibrate(clean, y)
        except ConfigError:
            continue
        states |= {f"{detector.name}/{entry}": value for entry, value in detector.state_dict().items()}
    return states


def keep_detectors(folder: Path, states: Mapping[str, Tensor]) -> None:
    """Writes detectors.safetensors, where there are any."""
    if states:
        with replacing(folder / DETECTORS) as part:
            write_weights(part, states)
