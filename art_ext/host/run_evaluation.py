"""The evaluation that ends `art-ext harden`: the recipe's suite on what it trained, with its undefended twin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from art_ext.border.weights import digest_of_weights
from art_ext.engine.net import Net
from art_ext.evaluation.evaluation import Evaluation, Options
from art_ext.evaluation.record import DataInfo, EvaluationRecord, ModelInfo
from art_ext.evaluation.report import report_on
from art_ext.evaluation.subject import Rows, Subject, adaptive_of, first_images, net_for
from art_ext.evaluation.suites import suite_named
from art_ext.host.evaluating import named_attacks
from art_ext.host.evaluation_text import Progress
from art_ext.host.job import Job
from art_ext.host.trained import trained
from art_ext.ingredient import Ingredient
from art_ext.plan import Plan
from art_ext.secrets import masked_data


def evaluate_run(
    job: Job,
    role: str,
    net: Net,
    ingredients: tuple[Ingredient, ...],
    baseline: Net | None,
    run_folder: Path,
    journals: Mapping[str, Path] | None = None,
) -> tuple[EvaluationRecord, Path]:
    """Evaluates a role's best weights into RUN_DIR/evaluation/ROLE; gives the record and the report's path.

    Args:
        net: with its best weights.
        baseline: the undefended network, where there is another one.
        journals: a role to its metrics.jsonl.
    """
    plan, data = job.plan(ingredients), job.data
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    test = Rows(data.test.x, data.test.y)
    sample = first_images(test, device)
    head = job.recipe.model.head
    subject_net, notes = net_for(net.module, plan, sample, head=head)
    bare = None if baseline is None else net_for(baseline.module, Plan.of((), plan.facts), sample)[0]
    weights = {name: value for name, value in net.module.state_dict().items() if isinstance(value, Tensor)}
    info = ModelInfo(
        str(run_folder / role),
        digest_of_weights(weights),
        plan.used,
        masked_data(job.resolved | {"use": job.resolved["use"] if plan.used else []}),
        job.catalogue.versions(plan.used),
    )
    show = Progress()
    evaluation = Evaluation(
        Subject(subject_net, plan, info, True, adaptive_of(ingredients)),
        test,
        job.threat,
        Options(
            suite_named(job.recipe.suite),
            extra=named_attacks(job.recipe, job.catalogue, plan, job.threat),
            seed=job.train.seed,
            device=device,
            folder=run_folder / "evaluation" / role,
            progress=show,
        ),
        info=DataInfo(data.name, data.source, "", len(data.test), data.class_names, "test split"),
        attacks=job.catalogue.attacks,
        baseline=bare,
        calibration=Rows(job.held_out.x, job.held_out.y),
        seen={
            "training": Rows(job.training.x, job.training.y),
            "selection": Rows(job.held_out.x, job.held_out.y),
        },
        notes=notes,
    )
    record = evaluation.run()
    left = trained(run_folder / role, net.module, evaluation, head)
    page = report_on(evaluation, record, last=left.last, journals=journals or left.journals)
    show.end()
    return record, page
