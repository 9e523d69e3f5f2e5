"""What may be wrong with an installation, each with its mend."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from art_ext.border.mlflow_runs import complaint, open_runs
from art_ext.border.mlflow_where import Tracking
from art_ext.errors import ArtExtError
from art_ext.lifecycle.sync import outboxes, unsent

__all__ = ["Finding", "examine"]

_LEAST_FREE = 2**30
_LIBRARIES = ("adversarial-robustness-toolbox", "timm", "mlflow", "lightning-fabric", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `mend` says what to do where it is not ok."""

    what: str
    status: Literal["ok", "red"]
    sentence: str
    mend: str = ""


def examine(tracking: Tracking, plugins: Sequence[tuple[str, str, str]], runs: Path) -> Iterator[Finding]:
    """Looks at everything, one after the other.

    Args:
        plugins: name, state ("loaded", "blocked", "broken") and cause of each.
        runs: the folder that run folders are looked for in.
    """
    yield _python()
    yield _libraries()
    yield _pair()
    yield _devices()
    yield _processes()
    server = _tracking(tracking)
    yield server
    yield from _folders(runs, tracking)
    yield from _plugins(plugins)
    yield from _left_here(runs)
    if server.status == "ok":
        yield from _left_open(tracking)


def _python() -> Finding:
    said = f"{platform.python_version()} ({sys.executable})"
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("python", "ok", said)
    return Finding("python", "red", f"{said}; art_ext needs 3.11 to 3.13", "make a virtual environment of Python 3.11")


def _libraries() -> Finding:
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("libraries", "red", f"{', '.join(missing)} not installed", f"pip install {' '.join(missing)}")
    return Finding("libraries", "ok", ", ".join(found))


def _pair() -> Finding:
    """torch and torchvision are built for each other: the second loads its operators into the first."""
    said = f"torch {torch.__version__}"
    try:
        said += f", torchvision {metadata.version('torchvision')}"
        probe = "import torch, torchvision; torch.ops.torchvision.nms"
        tried = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, check=False)
    except metadata.PackageNotFoundError:
        return Finding("torch", "red", f"{said} without torchvision", "pip install torchvision")
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("torch", "red", f"{said}: {error}", "install torch and torchvision again, together")
    if tried.returncode == 0:
        return Finding("torch", "ok", said)
    lines = tried.stderr.strip().splitlines() or ["it cannot be imported"]
    minor = torch.__version__.split(".")[1]
    mend = f"pip install 'torchvision==0.{int(minor) + 15}.*' from the index that torch came from"
    return Finding("torch", "red", f"{said} do not go together: {lines[-1][:160]}", mend)


def _devices() -> Finding:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    if not names:
        built = " (this torch is built for the CPU alone)" if torch.version.cuda is None else ""
        return Finding("devices", "ok", f"the CPU{built}")
    try:
        for kind in ["mps"] if names == ["mps"] else [f"cuda:{i}" for i in range(torch.cuda.device_count())]:
            torch.ones(8, device=kind).sum().item()
    except RuntimeError as error:
        said = f"{', '.join(names)}: {str(error).splitlines()[0][:160]}"
        return Finding("devices", "red", said, "update the driver, or set train.accelerator=cpu")
    return Finding("devices", "ok", ", ".join(names))


def _processes() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    said = f"{cores} CPU cores, {threads} threads"
    if not torch.distributed.is_available():
        return Finding("processes", "red", f"{said}, one process alone", "install a torch with torch.distributed")
    if threads > cores:
        return Finding("processes", "red", f"{said}: threads wait for each other", f"export OMP_NUM_THREADS={cores}")
    return Finding("processes", "ok", f"{said}, several processes with gloo{_nccl()}")


def _nccl() -> str:
    return " and nccl" if torch.distributed.is_nccl_available() and torch.cuda.is_available() else ""


def _tracking(tracking: Tracking) -> Finding:
    wrong = complaint(tracking)
    if wrong is None:
        return Finding("tracking", "ok", tracking.describe())
    mend = "start it, or set MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return Finding("tracking", "red", f"{tracking.describe()}: {wrong}", mend)


def _folders(runs: Path, tracking: Tracking) -> Iterator[Finding]:
    places = {"runs": runs, "temporary files": Path(tempfile.gettempdir())}
    if tracking.uri.startswith("sqlite:///"):
        places["tracking store"] = Path(tracking.uri.removeprefix("sqlite:///")).parent
    for name, place in places.items():
        there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
        what, said = f"folder of {name}", str(place)
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
            free = shutil.disk_usage(there).free
        except OSError as error:
            mend = f"make {there} writable" + (", or choose another with --output" if name == "runs" else "")
            yield Finding(what, "red", f"{said} cannot be written ({error.strerror})", mend)
            continue
        enough = free >= _LEAST_FREE
        mend = "" if enough else "free some space: checkpoints and models need it"
        yield Finding(what, "ok" if enough else "red", f"{said}, {free / 2**30:.1f} GiB free", mend)


def _plugins(plugins: Sequence[tuple[str, str, str]]) -> Iterator[Finding]:
    fine = [name if state == "loaded" else f"{name} ({cause})" for name, state, cause in plugins if state != "broken"]
    if fine:
        yield Finding("plugins", "ok", ", ".join(fine))
    for name, state, cause in plugins:
        if state == "broken":
            mend = f"update or uninstall it, or set ART_EXT_BLOCK_PLUGINS={name}"
            yield Finding(f"plugin {name}", "red", cause, mend)


def _left_here(runs: Path) -> Iterator[Finding]:
    for place in outboxes(runs) if runs.is_dir() else []:
        missing = _safely(lambda place=place: unsent(place))  # type: ignore[misc]
        if missing:
            yield Finding("run not sent", "red", f"{place}: {', '.join(missing)}", f"art-ext sync {place}")


def _left_open(tracking: Tracking) -> Iterator[Finding]:
    try:
        left = open_runs(tracking)
    except ArtExtError as error:
        yield Finding("open runs", "red", str(error), "start the server, and look again")
        return
    for run in left:
        said = f"{run.name} ({run.run_id}) is RUNNING in MLflow, but its process has ended"
        yield Finding("open run", "red", said, f"art-ext sync its folder, or: art-ext sync runs:/{run.run_id}")
    if not left:
        yield Finding("open runs", "ok", "no run was left RUNNING by this machine")


def _safely(ask: Callable[[], list[str]]) -> list[str]:
    try:
        return ask()
    except (ArtExtError, OSError) as error:
        return [f"it cannot be read: {error}"]
