"""The evaluation that ends `art-ext harden`: the recipe's suite on what it trained, with its undefended twin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from art_ext.border.weights import digest_of_weights
from art_ext.engine.net import Net
from art_ext.engine.run import Run
from art_ext.evaluation.evaluation import Evaluation, Options
from art_ext.evaluation.record import UNDEFENDED, DataInfo, EvaluationRecord, ModelInfo
from art_ext.evaluation.report import report_on
from art_ext.evaluation.subject import Rows, Subject, adaptive_of, first_images, net_for, plain_net
from art_ext.evaluation.suites import suite_named
from art_ext.host.evaluation_text import Progress
from art_ext.host.roles import Role
from art_ext.host.trained import cost_of, trained


def evaluate_run(
    role: Role,
    net: Net,
    baseline: Net | None,
    surrogates: Mapping[str, Net],
    beside: Mapping[str, EvaluationRecord],
    run_folder: Path,
    run: Run,
    journals: Mapping[str, Path] | None = None,
) -> tuple[EvaluationRecord, Path] | None:
    """Evaluates a role's best weights into RUN_DIR/evaluation/ROLE; gives the record and the report's path.

    Several processes share the images; what they found meets in that folder, and the first one goes on
    alone: the others get None.

    Args:
        net: with its best weights.
        baseline: the undefended network, where there is another one.
        surrogates: the networks of the methods beside it, to transfer from.
        beside: the evaluations of the methods beside it.
        journals: a role's name to its metrics.jsonl.
    """
    shared = run.world > 1
    if shared:
        _evaluation(role, net, baseline, surrogates, beside, run_folder, run, (run.rank, run.world)).attack()
        run.gather(None)  # all are done
        if run.rank != 0:
            return None
    show = Progress()
    evaluation = _evaluation(role, net, baseline, surrogates, beside, run_folder, run, None, show)
    record = evaluation.run()
    left = trained(run_folder / role.name, net.module, evaluation, role.job.recipe.model.head)
    page = report_on(evaluation, record, last=left.last, journals=journals or left.journals)
    show.end()
    return record, page


def _evaluation(
    role: Role,
    net: Net,
    baseline: Net | None,
    surrogates: Mapping[str, Net],
    beside: Mapping[str, EvaluationRecord],
    run_folder: Path,
    run: Run,
    shard: tuple[int, int] | None,
    show: Progress | None = None,
) -> Evaluation:
    job, plan, data = role.job, role.plan, role.job.data
    test = Rows(data.test.x, data.test.y)
    sample = first_images(test, run.device)
    subject_net, notes = net_for(net.module, plan, sample, head=job.recipe.model.head)
    bare = None if baseline is None else plain_net(baseline.module, plan.facts, sample)
    weights = {name: value for name, value in net.module.state_dict().items() if isinstance(value, Tensor)}
    folder = run_folder / role.name
    info = ModelInfo(
        str(folder),
        digest_of_weights(weights),
        plan.used,
        role.recipe,
        job.catalogue.versions(plan.used),
        cost_of(folder),
    )
    return Evaluation(
        Subject(subject_net, plan, info, True, adaptive_of(role.ingredients)),
        test,
        job.threat,
        Options(
            suite_named(job.recipe.suite),
            seed=job.train.seed,
            tprs=job.recipe.tprs,
            device=run.device,
            folder=run_folder / "evaluation" / role.name,
            shard=shard,
            progress=show,
        ),
        info=DataInfo(data.name, data.source, "", len(data.test), data.class_names, "test split"),
        attacks=job.catalogue.attacks,
        asked=job.recipe.attacks(job.catalogue),
        baseline=bare,
        baseline_name="given" if job.baseline == "given" else UNDEFENDED,
        surrogates={name: plain_net(other.module, plan.facts, sample) for name, other in surrogates.items()},
        beside=beside,
        calibration=Rows(job.held_out.x, job.held_out.y),
        seen={
            "training": Rows(job.training.x, job.training.y),
            "selection": Rows(job.held_out.x, job.held_out.y),
        },
        notes=notes,
    )
