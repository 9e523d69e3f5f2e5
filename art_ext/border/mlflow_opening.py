"""What a run tells MLflow when it starts: parameters, tags, data set, environment."""

from __future__ import annotations

import functools
import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from art_ext.border.mlflow_names import cleaned_keys
from art_ext.engine.observe import RunInfo
from art_ext.secrets import masked

__all__ = ["command_line", "commit", "dataset_of", "environment", "params_of", "plain", "tags_of", "version_of"]

_LONGEST_PARAM = 6000
_LONGEST_TAG = 5000
_LONGEST_DIGEST = 36


def params_of(values: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters as MLflow takes them, and the texts too long for it, which go to files."""
    params: dict[str, str] = {}
    long: dict[str, str] = {}
    for name, value in cleaned_keys(values).items():
        text = value if isinstance(value, str) else json.dumps(plain(value))
        if len(text) > _LONGEST_PARAM:
            long[name] = text
            text = f"{len(text)} characters, in the artifact params/{name}.txt"
        params[name] = text
    return params, long


def tags_of(info: RunInfo, parent: str | None, process: str) -> dict[str, str]:
    tags = {str(key): str(value)[:_LONGEST_TAG] for key, value in cleaned_keys(info.tags).items()}
    tags |= {"art_ext.version": version_of("art_ext"), "art_ext.role": info.role}
    tags |= {"mlflow.source.name": "art_ext", "mlflow.source.type": "LOCAL", "art_ext.process": process}
    tags["art_ext.command"] = command_line()[:_LONGEST_TAG]
    if (at := commit()) is not None:
        tags["mlflow.source.git.commit"] = at
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    return tags


def command_line() -> str:
    """How this process was called, for somebody who wants to do it again."""
    return masked(shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]]))


@functools.cache
def commit() -> str | None:
    """The commit that the working folder is at, where it belongs to a repository."""
    try:
        asked = ["git", "rev-parse", "--verify", "HEAD"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    found = said.stdout.strip()
    return found if said.returncode == 0 and re.fullmatch(r"[0-9a-f]{40,64}", found) else None


def dataset_of(data: Mapping[str, Any]) -> dict[str, str] | None:
    if not data:
        return None
    profile = {key: value for key, value in data.items() if key not in ("name", "digest", "source")}
    return {
        "name": str(data.get("name", "data"))[:500],
        "digest": str(data.get("digest", "unknown"))[:_LONGEST_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": str(data.get("source", data.get("name", "unknown")))}),
        "profile": json.dumps(plain(profile)),
    }


def environment(device: str | None = None) -> dict[str, Any]:
    """The versions and the hardware that a result depends on; nothing that tells whose machine it is."""
    libraries = {
        name: version_of(distribution)
        for name, distribution in {
            "art_ext": "art_ext",
            "torch": "torch",
            "torchvision": "torchvision",
            "numpy": "numpy",
            "art": "adversarial-robustness-toolbox",
            "timm": "timm",
            "mlflow": "mlflow",
            "lightning_fabric": "lightning-fabric",
        }.items()
    }
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": libraries,
        "device": device or ("cuda" if accelerators else "cpu"),
        "accelerators": accelerators,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def version_of(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def plain(value: Any) -> Any:
    """Data that JSON and YAML can hold: mappings, lists, numbers, text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return str(value)
