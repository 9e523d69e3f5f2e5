"""Tracking of trainers that are called directly."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from art_ext.border.mlflow import MLflowTracker, Registration, resolve_tracking
from art_ext.border.mlflow_auto import Choices, choices
from art_ext.engine.observe import RunInfo
from art_ext.errors import ModelError

__all__ = ["tracker_for_trainers"]


class _TrainerTracker(MLflowTracker):
    """For a trainer that is called directly: joins the user's run, says where, logs the network at the end."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...] | None, wanted: Choices) -> None:
        super().__init__(resolve_tracking(wanted.uri, Path.cwd()), wanted.experiment, join_active=True)
        self.model = model
        self.input_shape = input_shape if wanted.models else None
        self.registered_as = wanted.register

    def run_start(self, info: RunInfo) -> None:
        super().run_start(info)
        if info.rank == 0:
            print(f"tracked in {self.describe()}; track=False turns it off", file=sys.stderr)

    def run_end(self, metrics: Mapping[str, float]) -> None:
        if self.run_id is not None and self.input_shape is not None:
            example = np.zeros((2, *self.input_shape), dtype=np.float32)
            self.log_model(self.model, _architecture(self.model, self.input_shape), example)
            if self.registered_as is not None:
                self.register(Registration(self.registered_as))
        super().run_end(metrics)


def tracker_for_trainers(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> MLflowTracker | None:
    """The tracker of a trainer that is called directly, after the choices of `autolog`; None where it is off.

    Args:
        model: logged at the end of the run.
        input_shape: (C, H, W); without it the network is not logged, since MLflow wants an example.
    """
    wanted = choices()
    return _TrainerTracker(model, input_shape, wanted) if wanted.trainings else None


def _architecture(model: nn.Module, input_shape: tuple[int, ...]) -> Mapping[str, Any] | None:
    """What timm needs to build the network again, or None for another library's or the user's own."""
    from art_ext.border.timm import architecture

    try:
        return architecture(model, input_shape)
    except ModelError:
        return None
