"""Evaluations asked for by name: a model, data and a threat found for `art-ext evaluate`, `audit`, and in Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from art_ext.data.batches import split_off
from art_ext.data.entry import Data, Split
from art_ext.errors import ArtExtError, ConfigError
from art_ext.evaluation.evaluation import Evaluation, Options
from art_ext.evaluation.record import DataInfo, EvaluationRecord, ModelInfo
from art_ext.evaluation.rejecting import TPRS
from art_ext.evaluation.report import report_on
from art_ext.evaluation.settling import Question
from art_ext.evaluation.subject import Rows, Subject, adaptive_of, first_images, net_for, plain_net
from art_ext.evaluation.suites import suite_named
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.trials import Tick
from art_ext.evaluation.verdict import two_lines
from art_ext.host.evaluation_text import Progress, lines_of
from art_ext.host.evaluations import Asked, place_for
from art_ext.host.folders import STATE, default_folder
from art_ext.host.job import find_threat
from art_ext.host.manager import Catalogue, default_manager
from art_ext.host.models import OpenedModel, open_model
from art_ext.host.publishing import publish_evaluation
from art_ext.host.recipe import Recipe, load_recipe, recipe_from
from art_ext.host.recipe_files import find_recipe
from art_ext.host.trained import beside_of, cost_of, folders_beside, role_of, trained
from art_ext.lifecycle.roles import HARDENED, UNDEFENDED, is_role
from art_ext.plan import Plan
from art_ext.secrets import masked
from art_ext.types import Facts

Echo = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the command line asks for; what is None is found out.

    Attributes:
        model: as `open_model` takes it.
        data: a data set's name, or a recipe whose data and threat are meant.
        recipe: the one that trained the model.
        overrides: KEY=VALUE texts for the recipe.
        baseline: the undefended model; of a run folder, its own.
        limit: images at most, the first of each class in turn.
        until: a question to stop at.
        shard: "RANK/WORLD".
        tprs: of rejection; the recipe's when empty.
    """

    model: str
    data: str | None = None
    recipe: str | None = None
    suite: str = "standard"
    norm: str | None = None
    eps: float | None = None
    overrides: Sequence[str] = ()
    baseline: str | None = None
    output: Path | None = None
    limit: int | None = None
    until: str | None = None
    minutes: float | None = None
    shard: str | None = None
    seed: int = 0
    batch_size: int = 256
    tprs: Sequence[float] = ()
    tracking_uri: str | None = None
    trust: bool = False


@dataclass
class Found:
    """A request with everything it names opened.

    Attributes:
        data: what it is evaluated on.
        trained_on: the data of the model's recipe; None where that is not known, or cannot be opened here.
    """

    opened: OpenedModel
    catalogue: Catalogue
    recipe: Recipe | None
    data: Data
    trained_on: Data | None
    threat: Threat
    baseline: OpenedModel | None
    surrogates: dict[str, OpenedModel]
    folder: Path
    notes: list[str] = field(default_factory=list)


def find(request: Request) -> Found:
    """Opens the model, the data and the baseline of a request.

    Raises:
        ConfigError, DataError, ModelError: in one line, what is missing and how to give it.
    """
    given = load_recipe(request.recipe, request.overrides) if request.recipe is not None else None
    catalogue = default_manager().catalogue if given is None else given.catalogue()
    source, data = _data(request, given, catalogue)
    _refuse_idle(request, named=given is not None or source is not None)
    facts = None if data is None else Facts(data.n_classes, data.input_shape)
    opened = _open(request.model, catalogue, given, facts, request)
    recipe = given
    if recipe is None and opened.recipe is not None:
        recipe = recipe_from(opened.recipe, f"the recipe of {opened.source}", catalogue=catalogue)
    if data is None:
        if recipe is None:
            raise ConfigError(
                f"nothing says what to evaluate {opened.source} on; name a data set or a recipe with --data, "
                "such as --data digits"
            )
        data = recipe.open_data(catalogue)
    if (data.n_classes, tuple(data.input_shape)) != (opened.facts.n_classes, tuple(opened.facts.input_shape)):
        sizes = [f"{known.n_classes} classes of images {tuple(known.input_shape)}" for known in (opened.facts, data)]
        raise ConfigError(
            f"{opened.source} answers for {sizes[0]}, but {data.name} has {sizes[1]}; give the data it is for"
        )
    threat = _threat(request, recipe or source, opened, catalogue)
    trained_on, notes = _trained_on(recipe, request, source, data, catalogue)
    return Found(
        opened,
        catalogue,
        recipe,
        data,
        trained_on,
        threat,
        _baseline(request, catalogue, opened, given),
        _surrogates(request, catalogue, opened, given),
        request.output or _folder(request, recipe, opened.plan(catalogue), data, trained_on, threat),
        notes,
    )


def prepare(found: Found, request: Request, progress: Callable[[Tick], None] | None = None) -> Evaluation:
    """The evaluation of a found request, ready to run."""
    data, opened, catalogue = found.data, found.opened, found.catalogue
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    test, picked = _limited(data.test, request.limit)
    held_out = None if found.recipe is None else _parted(data, found.recipe)[1]
    plan = opened.plan(catalogue)
    module = opened.module.to(device)
    sample = first_images(Rows(test.x, test.y), device)
    net, notes = net_for(module, plan, sample, head=None if found.recipe is None else found.recipe.model.head)
    info = ModelInfo(
        opened.source,
        opened.digest,
        tuple(ingredient.name for ingredient in opened.ingredients),
        opened.recipe,
        catalogue.versions(plan.used),
        cost_of(role_of(request.model)),
    )
    others = {name: plain_net(one.module.to(device), plan.facts, sample) for name, one in found.surrogates.items()}
    bare = None if found.baseline is None else plain_net(found.baseline.module.to(device), plan.facts, sample)
    options = Options(
        suite_named(request.suite),
        seed=request.seed,
        device=device,
        folder=found.folder,
        batch_size=request.batch_size,
        tprs=request.tprs or (TPRS if found.recipe is None else found.recipe.tprs),
        minutes=request.minutes,
        until=None if request.until is None else Question.parse(request.until),
        shard=_shard(request.shard),
        progress=progress,
    )
    seen = {}
    if found.recipe is not None and found.trained_on is not None:
        parts = zip(("training", "selection"), _parted(found.trained_on, found.recipe), strict=True)
        seen = {part: Rows(split.x, split.y) for part, split in parts}
    return Evaluation(
        Subject(net, plan, info, opened.recipe is not None, adaptive_of(opened.ingredients)),
        Rows(test.x, test.y),
        found.threat,
        options,
        info=DataInfo(data.name, data.source, "", len(test), data.class_names, picked),
        attacks=catalogue.attacks,
        asked=() if found.recipe is None else found.recipe.attacks(catalogue),
        baseline=bare,
        baseline_name=_called(found.baseline) or UNDEFENDED,
        surrogates=others,
        beside=beside_of(role_of(request.model)),
        calibration=None if held_out is None else Rows(held_out.x, held_out.y),
        seen=seen,
        notes=[*found.notes, *notes],
    )


def evaluate(request: Request, echo: Echo, *, brief: bool = False) -> EvaluationRecord | None:
    """Evaluates what a request asks for, prints it and writes its folder; None of a shard, which sees a part alone.

    Args:
        brief: the verdict in two lines, and where the report is.
    """
    found = find(request)
    show = Progress()
    evaluation = prepare(found, request, show)
    if not brief:
        for line in _head(found, request, evaluation):
            echo(line)
    if evaluation.options.shard is not None:
        evaluation.attack()
        show.end()
        echo(f"shard {request.shard} is done; when all are, run the same command without --shard")
        return None
    record = evaluation.run()
    show.end()
    head = None if found.recipe is None else found.recipe.model.head
    left = trained(role_of(request.model), found.opened.module, evaluation, head)
    page = report_on(evaluation, record, last=left.last, journals=left.journals)
    for line in two_lines(record) if brief else lines_of(record):
        echo(line)
    echo(f"report: {page}")
    if not brief:
        tracked = publish_evaluation(request.model, record, found.folder, request.tracking_uri)
        if tracked is not None:
            echo(tracked)
    return record


def _head(found: Found, request: Request, evaluation: Evaluation) -> list[str]:
    opened, n = found.opened, len(evaluation.data.y)
    method = " + ".join(ingredient.name for ingredient in opened.ingredients)
    known = method or ("no defence" if opened.recipe is not None else "nothing is known of its training")
    return [
        f"model     {opened.source}: {known}",
        f"data      {found.data.name}: {n} images of its {evaluation.info.split}",
        f"threat    {found.threat}",
        f"suite     {request.suite}: {evaluation.options.suite.summary}",
        f"files     {found.folder}",
    ]


def _data(request: Request, given: Recipe | None, catalogue: Catalogue) -> tuple[Recipe | None, Data | None]:
    """The recipe that --data names, if it does, and the data."""
    if request.data is None:
        return None, None if given is None else given.open_data(catalogue)
    if request.data in catalogue.datasets:
        return None, catalogue.dataset(request.data).open(**_data_options(request.overrides))
    try:
        find_recipe(request.data)
    except ConfigError:
        catalogue.dataset(request.data)  # says which data sets there are
    source = load_recipe(request.data, () if given is not None else request.overrides)
    return source, source.open_data(catalogue)


def _trained_on(
    recipe: Recipe | None, request: Request, source: Recipe | None, data: Data, catalogue: Catalogue
) -> tuple[Data | None, list[str]]:
    """The data that the model's recipe names, and what is not known of its training.

    Args:
        source: the recipe whose data the request asks for, if it does.
        data: what the request asks for.
    """
    if recipe is None:
        return None, []
    notes = []
    if recipe.model.source is not None:
        began = f"it was trained further from {masked(recipe.model.source)}"
        notes.append(f"{began}, and images which that was trained on were not looked for")
    own = recipe.data.name, recipe.data.options
    asked = (request.data, _data_options(request.overrides))
    if source is not None:
        asked = source.data.name, source.data.options
    if request.data is None or asked == own:
        return data, notes
    try:
        return recipe.open_data(catalogue), notes
    except ArtExtError as error:
        return None, [*notes, f"the images that it was trained on cannot be looked for: {error}"]


def _parted(data: Data, recipe: Recipe) -> tuple[Split, Split]:
    """The training images as a recipe uses them: those trained on, and those held out."""
    own = recipe.train
    rows, held = split_off(len(data.train), data.train.y, own.held_out, own.seed)
    return data.train.at(rows), data.train.at(held)


def _refuse_idle(request: Request, *, named: bool) -> None:
    """Refuses settings that would change nothing: those of a recipe where the request names none.

    Raises:
        ConfigError: naming the first, and what to say instead.
    """
    for text in request.overrides:
        if named or (request.data is not None and text.startswith("data.")):
            continue
        instead = "set the server with --tracking-uri" if text.startswith("track.") else "name one with --recipe"
        raise ConfigError(f"--set {text} changes a recipe, and none is named here; {instead}")


def _data_options(overrides: Sequence[str]) -> dict[str, Any]:
    return dict(_data_option(text) for text in overrides if text.startswith("data."))


def _data_option(text: str) -> tuple[str, Any]:
    key, found, value = text.removeprefix("data.").partition("=")
    if not found:
        raise ConfigError(f"{text!r} is no setting; write --set data.{key}=VALUE")
    return key, int(value) if re.fullmatch(r"[0-9]+", value) else value


def _open(
    source: str, catalogue: Catalogue, recipe: Recipe | None, facts: Facts | None, request: Request
) -> OpenedModel:
    return open_model(
        source, catalogue=catalogue, recipe=recipe, facts=facts, tracking_uri=request.tracking_uri, trust=request.trust
    )


def _called(baseline: OpenedModel | None) -> str:
    """What a model is to the one that it is compared with: undefended, unless it is known to be otherwise."""
    return " + ".join(ingredient.name for ingredient in baseline.ingredients) if baseline is not None else ""


def _baseline(
    request: Request, catalogue: Catalogue, opened: OpenedModel, given: Recipe | None
) -> OpenedModel | None:
    """The model that --baseline names, or the undefended one of the same run folder."""
    if request.baseline is not None:
        return _open(request.baseline, catalogue, None, opened.facts, request)
    role = role_of(request.model)
    if opened.ingredients and role is not None and is_role(role.parent / UNDEFENDED):
        return open_model(str(role.parent), catalogue=catalogue, recipe=given, facts=opened.facts, undefended=True)
    return None


def _surrogates(
    request: Request, catalogue: Catalogue, opened: OpenedModel, given: Recipe | None
) -> dict[str, OpenedModel]:
    """The networks that were trained beside the hardened one of a run folder, by name."""
    role = role_of(request.model)
    if role is None or role.name != HARDENED:
        return {}
    return {
        folder.name: open_model(str(folder), catalogue=catalogue, recipe=given, facts=opened.facts)
        for folder in folders_beside(role)
    }


def _threat(request: Request, recipe: Recipe | None, opened: OpenedModel, catalogue: Catalogue) -> Threat:
    """--norm and --eps, else the recipe's."""
    known: Threat | None = None
    if recipe is not None and (request.eps is None or request.norm is None):
        try:
            known = find_threat(recipe, opened.plan(catalogue))
        except ConfigError:
            known = None
    if request.eps is not None:
        norm = request.norm or (known.norm if known is not None else "linf")
        return Threat(norm, request.eps, opened.facts.clip)
    if known is None:
        raise ConfigError("nothing says how strong the attacker is; give --eps, such as --eps 8/255 --norm linf")
    if request.norm is not None and request.norm != known.norm:
        raise ConfigError(f"the recipe's eps is for {known.norm}; give --eps for {request.norm} too")
    return replace(known, clip=opened.facts.clip)


def _limited(split: Split, limit: int | None) -> tuple[Split, str]:
    """The first images of each class in turn, up to a limit, in the order of the data; and what they are."""
    if limit is None or limit >= len(split):
        return split, "test split"
    if limit < 1:
        raise ConfigError(f"--limit is a number of images from 1, got {limit}")
    seen: dict[int, int] = {}
    turn = []
    for row, label in enumerate(split.y.tolist()):
        seen[label] = seen.get(label, 0) + 1
        turn.append((seen[label], row))
    rows = sorted(row for _, row in sorted(turn)[:limit])
    return split.at(torch.tensor(rows)), f"test split (first {limit}, classes in turn)"


def _folder(
    request: Request, recipe: Recipe | None, plan: Plan, data: Data, trained_on: Data | None, threat: Threat
) -> Path:
    """Where an evaluation goes: into the run folder it is of, beside the run's own where it asks for something else;
    without a run into a new one.
    """
    role = role_of(request.model)
    if role is not None and (role.parent / STATE).is_file():
        test, picked = _limited(data.test, request.limit)
        end = request.until or ("" if request.minutes is None else f"{request.minutes:g} minutes")
        about = (data.name, data.source, picked)
        asked = Asked(threat.norm, threat.eps, request.suite, len(test), *about, request.seed, end)
        return place_for(role, asked, _usual(asked, recipe, plan, trained_on))
    name = Path(request.model).expanduser().name or request.model
    return default_folder("evaluate-" + re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_"))


def _usual(asked: Asked, recipe: Recipe | None, plan: Plan, data: Data | None) -> Asked:
    """What the evaluation of a run asks for after its recipe; one without a suite leaves that to the first."""
    if recipe is None or data is None:
        return asked
    try:
        threat = find_threat(recipe, plan)
    except ConfigError:
        threat = Threat(asked.norm, asked.eps)
    suite = asked.suite if recipe.suite == "none" else recipe.suite
    about = (data.name, data.source, "test split")
    return Asked(threat.norm, threat.eps, suite, len(data.test), *about, asked.seed)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if found is None:
        raise ConfigError(f"{text!r} is no shard; write --shard RANK/WORLD, such as 0/4")
    return int(found[1]), int(found[2])

