"""The whole state of a training as plain data, and back: what a checkpoint holds.

A fit that was restored goes on as if nothing had happened, bit for bit on a CPU with as many threads.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from art_ext.engine.logs import Sums
from art_ext.engine.observe import EpochReport
from art_ext.errors import CheckpointError, ConfigError
from art_ext.plan import Scores

if TYPE_CHECKING:
    from art_ext.engine.fit import Fit

FORMAT = 1


@dataclass
class Place:
    """Where a fit stands.

    Attributes:
        epoch, batch: what comes next, from 0; a batch behind the last is the end of the epoch.
        sums: this process's sums of the epoch's logs.
        seen: its rows of the epoch.
        seconds: spent on the epoch's batches.
        factor: of the learning rates in the last of them.
        drawn: torch's, numpy's and Python's generators as the epoch's batches found them.
        finished: nothing is left to do.
    """

    epoch: int = 0
    batch: int = 0
    sums: Sums = field(default_factory=Sums)
    seen: int = 0
    seconds: float = 0.0
    factor: float = 1.0
    drawn: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


def generators() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global generators, and those of all CUDA devices in use."""
    numpy: Any = np.random.get_state(legacy=True)
    name, words, position, has_gauss, gauss = numpy
    version, internal, following = random.getstate()
    cuda: Any = torch.cuda
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(words.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, torch.from_numpy(np.array(internal)), following],
        "cuda": cuda.get_rng_state_all() if cuda.is_initialized() else [],
    }


def set_generators(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    name, words, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, following = states["python"]
    random.setstate((version, tuple(internal.tolist()), following))
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def capture(fit: Fit) -> dict[str, Any] | None:
    """The state of a fit between two steps; all processes take part, and the first one gets it."""
    run = fit.run
    own = {
        "generators": generators(),
        "drawn": fit.place.drawn,
        "sums": fit.place.sums.read(),
        "seen": fit.place.seen,
        "layers": _layers(fit, per_rank=True),
    }
    ranks = run.gather(own)
    if ranks is None:
        return None
    state = {
        "format": FORMAT,
        "plan": fingerprint(fit),
        "world": run.world,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "epoch": fit.place.epoch,
        "batch": fit.place.batch,
        "seconds": fit.place.seconds,
        "factor": fit.place.factor,
        "finished": fit.place.finished,
        "ranks": ranks,
        "run": run.state_dict(),
        "net": fit.net.state_dict(),
        "optimizer": fit.raw_optimizer.state_dict(),
        "scheduler": None if fit.scheduler is None else fit.scheduler.state_dict(),
        "fresh": list(fit.fresh) if fit.restarts_later() else None,
        "helpers": {name: helper.state_dict() for name, helper in fit.helpers.items()},
        "layers": _layers(fit, per_rank=False),
        "observers": {name: observer.state_dict() for name, observer in _watchers(fit)},
        "phase_start": fit.phase_start,
        "full_batch": fit.full_batch,
        "history": {
            "epochs": [asdict(report) for report in fit.history.epochs],
            "best_epoch": fit.history.best_epoch,
            "best": None if fit.history.best is None else asdict(fit.history.best),
            "last": None if fit.history.last is None else asdict(fit.history.last),
            "seconds": fit.history.seconds,
        },
        "best": fit.best_state,
    }
    return {name: plain(value, name) for name, value in state.items()}


def plain(value: Any, name: str) -> Any:
    """The same as tensors, numbers, text, lists and mappings alone, which can be read without running code.

    Raises:
        ConfigError: naming the first thing that is none of these.
    """
    if value is None or isinstance(value, bool | Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    for kind in (int, float, str):  # not their subclasses, such as torch's version
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        return {plain(key, name): plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset | deque):
        kept = [plain(inner, name) for inner in value]
        return tuple(kept) if isinstance(value, tuple) else kept
    raise ConfigError(
        f"the state of this training holds a {type(value).__name__} ({name}), which a checkpoint cannot; "
        "let state_dict() give tensors, numbers and text, or train without a folder"
    )


def restore(fit: Fit, state: Mapping[str, Any]) -> list[str]:
    """Puts a fit where the state was captured.

    Returns:
        What is different here and may change the result's last bits, a clause each.

    Raises:
        CheckpointError: where the state is that of another training, or of another version of this format.
    """
    run = fit.run
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"the checkpoints in {fit.folder} have the format {state.get('format')}, and this version of art_ext "
            f"reads {FORMAT}; go on with the version that wrote them, or start anew in another folder"
        )
    if state["plan"] != fingerprint(fit):
        raise CheckpointError(
            f"the checkpoints in {fit.folder} are those of another training; go on with the same ingredients, network, "
            "optimizer and number of epochs, or start anew in another folder"
        )
    if state["world"] != run.world:
        raise CheckpointError(
            f"the checkpoints in {fit.folder} were written by {state['world']} processes, but {run.world} started; "
            "start as many as before"
        )
    own = state["ranks"][run.rank]
    device = run.device
    fit.net.load_state_dict(state["net"])
    fit.raw_optimizer.load_state_dict(state["optimizer"])
    if fit.scheduler is not None:
        fit.scheduler.load_state_dict(state["scheduler"])
    if state["fresh"] is not None:
        fit.fresh = (state["fresh"][0], state["fresh"][1])
    for name, helper in fit.helpers.items():
        helper.load_state_dict(state["helpers"][name])
    _load_layers(fit, {**state["layers"], **own["layers"]}, device)
    for name, observer in _watchers(fit):
        if name in state["observers"]:
            observer.load_state_dict(state["observers"][name])
    run.load_state_dict(state["run"])
    fit.phase_start, fit.full_batch = state["phase_start"], state["full_batch"]
    fit.place = Place(
        epoch=state["epoch"],
        batch=state["batch"],
        sums=Sums(own["sums"]),
        seen=own["seen"],
        seconds=state["seconds"],
        factor=state["factor"],
        drawn=own["drawn"],
        finished=state["finished"],
    )
    known = state["history"]
    fit.history.epochs = [_report(record) for record in known["epochs"]]
    fit.history.best_epoch, fit.history.seconds = known["best_epoch"], known["seconds"]
    fit.history.best, fit.history.last = _scores(known["best"]), _scores(known["last"])
    fit.best_state = state["best"]
    set_generators(own["generators"])
    return _differences(state)


def fingerprint(fit: Fit) -> str:
    """Of what a fit computes: plan, network, optimizer, epochs, batches."""
    shapes = [(name, tuple(value.shape)) for name, value in fit.net.state_dict().items()]
    told = (
        fit.plan.describe(),
        fit.plan.used,
        shapes,
        type(fit.raw_optimizer).__name__,
        (fit.epochs, fit.per_epoch, fit.run.seed),
    )
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(told)).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of the libraries whose arithmetic the result depends on."""
    return {"torch": torch.__version__, "numpy": np.__version__}


def _differences(state: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name} was {then} and is {versions().get(name)}"
        for name, then in state["versions"].items()
        if versions().get(name) != then
    ]
    if state["threads"] != torch.get_num_threads():
        found.append(f"{state['threads']} threads computed before and {torch.get_num_threads()} do now")
    return found


def _stateful(fit: Fit) -> Iterator[tuple[str, Any]]:
    for number, (owner, layer) in enumerate(fit.parts.layers):
        if hasattr(layer, "state_dict"):
            if not hasattr(layer, "load_state_dict"):
                raise ConfigError(f"the update of {owner} has state_dict, but no load_state_dict; give it both")
            yield f"{number} {owner}", layer


def _layers(fit: Fit, *, per_rank: bool) -> dict[str, Any]:
    return {
        name: layer.state_dict()
        for name, layer in _stateful(fit)
        if bool(getattr(layer, "per_rank", False)) is per_rank
    }


def _load_layers(fit: Fit, states: Mapping[str, Any], device: torch.device) -> None:
    for name, layer in _stateful(fit):
        layer.load_state_dict(_to(states[name], device))


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(inner, device) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to(inner, device) for inner in value)
    return value


def _watchers(fit: Fit) -> Iterator[tuple[str, Any]]:
    """Observers that keep something from epoch to epoch, such as the patience of one that stops a run."""
    for number, observer in enumerate(fit.observers):
        if hasattr(observer, "state_dict") and hasattr(observer, "load_state_dict"):
            yield f"{number} {type(observer).__name__}", observer


def _report(record: Mapping[str, Any]) -> EpochReport:
    return EpochReport(**{**record, "scores": _scores(record["scores"])})


def _scores(record: Mapping[str, Any] | None) -> Scores | None:
    return None if record is None else Scores(**record)
