"""Adversarial training methods as plugins for the Adversarial Robustness Toolbox.

Names are imported when first asked for, so that `import art_ext` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.lazy import lazily

if TYPE_CHECKING:
    from art_ext.border.mlflow_auto import autolog
    from art_ext.host.auditing import Evaluation, audit, evaluate
    from art_ext.parts.ensemble import ensemble

__all__ = ["Evaluation", "audit", "autolog", "ensemble", "evaluate"]

__getattr__ = lazily(
    __name__,
    **{
        "border.mlflow_auto": ("autolog",),
        "host.auditing": ("Evaluation", "audit", "evaluate"),
        "parts.ensemble": ("ensemble",),
    },
)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
