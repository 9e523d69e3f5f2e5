"""`art-ext harden` as a user runs it: files, table, MLflow, failures; on real digits, in seconds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from art_ext.engine import checkpoint
from art_ext.engine.fit import History
from art_ext.engine.journal import read_journal
from art_ext.engine.observe import EpochReport
from art_ext.evaluation.suite import Evaluator
from art_ext.host.cli import main
from art_ext.host.job import prepare
from art_ext.host.outcome import Outcome, overstates, report
from art_ext.host.recipe import load_recipe
from art_ext.host.roles import roles_of

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "digits" / "pc_lc_pgd_at.yaml"
SETTINGS = ("train.epochs=3", "pc_lc.warmup_epochs=1", "pgd_at.steps=2", "suite=none", "beside={}")
QUICK = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    """One run of the demo's recipe, made quick, in a process of its own: (folder, standard output, standard error)."""
    folder = tmp_path_factory.mktemp("harden")
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "art-ext"), "harden", str(RECIPE), *QUICK, "--output", "out"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_it_prints_progress_a_table_and_where_to_look(hardened):
    folder, out, err = hardened
    assert "undefended: epoch 3/3" in err
    assert "hardened: epoch 3/3" in err
    for word in ("loss", "clean", "robust", "ETA"):
        assert word in err
    lines = out.splitlines()
    (head,) = [line for line in lines if line.startswith("accuracy (95% interval)")]
    assert head.split()[3:] == ["clean", "pgd20", "pgd20_margin"]
    for role in ("undefended", "hardened"):
        assert sum(line.startswith(f"{role} ") and "(" in line for line in lines) == 1
    assert "n = 360 test images" in out
    assert f"ui --backend-store-uri sqlite:///{folder}/mlflow.db" in out
    assert "Traceback" not in out + err


def test_it_leaves_checkpoints_metrics_result_and_picture(hardened):
    folder = hardened[0] / "out"
    result = json.loads((folder / "result.json").read_text())
    assert (folder / "result.png").read_bytes()[:4] == b"\x89PNG"
    for role in ("undefended", "hardened"):
        assert checkpoint.load(folder / role / "last.pt")["epoch"] == 3
        assert checkpoint.load(folder / role / "best.pt")["epoch"] == result[role]["best_epoch"]
        entries = read_journal(folder / role / "metrics.jsonl")
        assert [entry.epoch for entry in entries if entry.event == "epoch"] == [1, 2, 3]
        assert {"train/loss", "held_out/clean_accuracy", "held_out/robust_accuracy", "lr", "images_per_second"} <= set(
            entries[0].metrics
        )
        for row in result[role]["best"]:
            assert row["n"] == 360
            assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    assert result["hardened"]["best_epoch"] > 1, "the warm-up epoch is not chosen"


def test_both_runs_are_in_mlflow_with_all_that_belongs_to_them(hardened):
    from mlflow import MlflowClient

    folder = hardened[0]
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    result = json.loads((folder / "out" / "result.json").read_text())
    for role in ("undefended", "hardened"):
        found = client.get_run(result[role]["mlflow_run"])
        assert found.info.status == "FINISHED"
        assert found.data.params["train.epochs"] == "3"
        assert found.data.params.get("pc_lc.warmup_epochs") == ("1" if role == "hardened" else None)
        assert found.inputs.dataset_inputs[0].dataset.name == "digits"
        metrics = found.data.metrics
        assert metrics["evaluate/pgd20/accuracy"] == pytest.approx(result[role]["best"][1]["accuracy"])
        history = client.get_metric_history(found.info.run_id, "held_out/robust_accuracy")
        assert [point.step for point in history] == [1, 2, 3]
        names = {item.path for item in client.list_artifacts(found.info.run_id)}
        assert {"recipe.yaml", "plan.json", "environment.json", "evaluation.json"} <= names


def test_the_logged_model_can_be_attacked_and_trained_further(hardened):
    import numpy as np
    from art.estimators.classification import PyTorchClassifier
    from mlflow import MlflowClient
    from sklearn.datasets import load_digits

    from art_ext.border.mlflow import load_model
    from art_ext_baselines import PGDATAttack, PGDATTrainer

    folder = hardened[0]
    uri = f"sqlite:///{folder}/mlflow.db"
    run_id = json.loads((folder / "out" / "result.json").read_text())["hardened"]["mlflow_run"]
    (logged,) = MlflowClient(uri).get_run(run_id).outputs.model_outputs
    model = load_model(f"models:/{logged.model_id}", uri=uri)
    best = checkpoint.load(folder / "out" / "hardened" / "best.pt")["net"]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    target = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )
    digits = load_digits()
    x, y = (digits.images[:100] / 16).astype(np.float32)[:, None], digits.target[:100]
    assert np.abs(PGDATAttack(target, eps=0.1, steps=2).generate(x, y) - x).max() <= 0.1 + 1e-6
    PGDATTrainer(target, eps=0.1, steps=1, track=False, verbose=False).fit(x, y, nb_epochs=1)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recipe_is_understood(path, capsys):
    assert run("explain", str(path)) == 0
    assert "criterion" in capsys.readouterr().out


def test_a_dry_run_trains_and_writes_nothing(tmp_path, capsys):
    assert run("harden", str(RECIPE), "--dry-run") == 0
    out = capsys.readouterr().out
    assert re.search(r"small_cnn: [\d,]+ parameters", out)
    assert "1.0 forward and 1.0 backward passes an image" in out  # undefended
    assert "3.5 forward and 3.5 backward passes an image" in out  # half the rows: 5 steps, and the training pass of all
    steps = [line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("step ")]
    assert steps == ["undefended", "pgd_at", "pgd_at"], "each training of the run, the one beside included"
    assert re.search(r"^time +about \d+ \w+ of training and up to \d+ \w+ of evaluation, from 5 probe", out, re.M)
    assert "MiB" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_the_evaluation_that_the_recipe_asks_for(capsys):
    recipe = str(ROOT / "recipes" / "digits" / "pgd_at.yaml")

    def passes(*changes: str) -> int:
        words = [word for change in ("train.threads=1", *changes) for word in ("--set", change)]
        assert run("harden", recipe, "--dry-run", *words) == 0
        (found,) = re.findall(r"^evaluate +up to ([\d,]+) passes a test image", capsys.readouterr().out, re.M)
        return int(found.replace(",", ""))

    listed = passes("suite=none", "evaluate=[{pgd: {steps: 10}}]")
    assert listed == round(3 * 10 * 1.3), "the undefended network falls early"
    assert passes("suite=none", "evaluate=[{pgd: {steps: 1000}}]") == round(3 * 1000 * 1.3)
    assert passes("evaluate=[{pgd: {steps: 10}}]") > listed + 1000, "the quick suite"


def test_a_saturating_defence_under_cross_entropy_alone_is_flagged(tmp_path):
    job = prepare(load_recipe("digits/mmc", ["evaluate=[{pgd: {steps: 2}}, {fgsm: {}}]", "suite=none"]))
    plan, said = job.plan(job.ingredients), []
    attacks = job.attacks(plan)
    evaluator = Evaluator(job.net(plan), job.data.test.x, job.data.test.y)
    history = History([EpochReport(1, 1, 1, {}, None, True)], 1)
    rows, said_of = evaluator.run(attacks), overstates(plan, attacks)
    outcome = Outcome(roles_of(job)[-1], evaluator, history, rows, overstates=said_of)
    report(job, [outcome], tmp_path, said.append)
    (line,) = [line for line in said if "overstate" in line]
    assert line.startswith("hardened: ")
    assert "cross-entropy, which has no gradient at the logits of mmc; add criterion_pgd" in line
    assert json.loads((tmp_path / "result.json").read_text())["hardened"]["overstates"] in line


@pytest.mark.parametrize(
    ("recipe", "evaluate", "flagged"),
    [
        ("mmc", "[{pgd: {steps: 2}}, {pgd: {steps: 2, objective: kl_to_clean}}]", True),
        ("mmc", "[{pgd: {steps: 2}}, {pgd: {steps: 2, objective: margin}}]", False),
        ("mmc", "[{pgd: {steps: 2}}, {criterion_pgd: {steps: 2}}]", False),
        ("mmc", "[]", False),
        ("mm_lda", "[{pgd: {steps: 2}}]", False),
    ],
)
def test_one_attack_that_needs_no_softmax_is_enough(recipe, evaluate, flagged):
    job = prepare(load_recipe(f"digits/{recipe}", [f"evaluate={evaluate}"]))
    plan = job.plan(job.ingredients)
    assert bool(overstates(plan, job.attacks(plan))) == flagged
    bare = job.plan(())
    assert overstates(bare, job.attacks(bare)) == "", "the undefended twin has a softmax with a gradient"


def test_one_attack_at_two_radii_has_two_names(capsys):
    two = "evaluate=[{pgd: {steps: 2}}, {pgd: {steps: 2, eps: 0.3}}]"
    assert run("harden", str(ROOT / "recipes" / "digits" / "fat.yaml"), "--dry-run", "--set", two) == 0
    out = capsys.readouterr().out
    assert "evaluate  pgd2_linf_0.15:" in out
    assert "evaluate  pgd2_linf_0.3:" in out


def test_a_dry_run_says_what_the_length_of_a_training_leaves_out(capsys):
    fat = [str(ROOT / "recipes" / "digits" / "fat.yaml"), "--dry-run", "--set", "train.threads=1"]
    assert run("harden", *fat, "--set", "fat.milestones=[8, 99]", "--set", "beside={}") == 0
    assert "note      fat.milestones: nothing happens at 99, after the last of " in capsys.readouterr().out


USE = "use=[{pgd_at: {eps: 0.15, steps: 1}}, {weight_decay: {value: 0.1}}, {optimizer: {kind: nesterov}}]"


def test_settings_that_the_recipe_has_itself_are_said_to_overrule_those_of_an_ingredient(capsys):
    at = str(ROOT / "recipes" / "digits" / "pgd_at.yaml")
    assert run("harden", at, "--dry-run", "--set", USE, "--set", "train.threads=1", "--set", "train.epochs=1") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert notes == [
        "note      weight_decay asks for weight_decay 0.1, but train.optimizer has 0.0005, which holds; set it there, "
        "or remove weight_decay",
        "note      optimizer asks for nesterov True, but train.optimizer has False, which holds; set it there, "
        "or remove optimizer",
    ]
    assert run("explain", at, "--set", USE) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("train.")}
    assert "0.0005" in shown["train.weight_decay"]
    assert shown["train.weight_decay"].endswith("the recipe; weight_decay asks for weight_decay 0.1")
    assert shown["train.optimizer"].endswith("the recipe; optimizer asks for nesterov True")
    other = "train.optimizer={adam: {lr: 0.001, weight_decay: 0.1}}"
    assert run("explain", at, "--set", USE, "--set", other) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("train.")}
    assert shown["train.weight_decay"].split()[-1] == "weight_decay", "what holds is what was asked for"
    assert shown["train.optimizer"].endswith("the recipe; optimizer asks for optimizer sgd")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_on_board_has_an_optimizer_against_its_own_ingredients(path):
    """How long it trains may be scaled down; weight decay that an ingredient brings is not set aside."""
    recipe = load_recipe(path)
    settings = recipe.plan(recipe.assumed_facts()).settings
    assert not [one for one in recipe.train.tuned(settings).overruled(settings) if one.of_optimizer]


def test_a_warm_up_that_never_ends_is_refused_by_the_dry_run(capsys):
    attacked = "{pgd_at: {eps: 0.15, steps: 2}}"
    for name, use, beside, what in (
        ("train.epochs", "{lr_warmup: {epochs: 1000}}", "{}", "learning rate"),
        ("train.epochs", "{eps_warmup: {epochs: 1000}}", "{}", "radius"),
        ("train.epochs of slow", "weight_decay", f"{{slow: [{attacked}, {{eps_warmup: {{epochs: 1000}}}}]}}", "radius"),
    ):
        settings = (f"use=[{attacked}, {use}]", f"beside={beside}", "train.epochs=3")
        words = [word for setting in settings for word in ("--set", setting)]
        assert run("harden", str(RECIPE), "--dry-run", *words) == 2
        said = capsys.readouterr().err.strip()
        assert f"warms up for 1000 epochs and {name} is 3, so the full {what} would never be used" in said
        assert said.startswith("error: ")
        assert "\n" not in said


def test_bad_input_ends_with_its_exit_code_before_any_work(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    cases = [
        (2, "exists already", ["harden", str(RECIPE), "--output", "full"]),
        (2, "did you mean pc_lc", ["harden", str(RECIPE), "--set", "pc_l.xi=1"]),
        (2, "pgd_at.steps", ["harden", str(RECIPE), "--set", "pgd_at.steps=0"]),
        (2, "divides by zero", ["harden", str(RECIPE), "--set", "pgd_at.eps=8/0"]),
        (3, "cifar-10-batches-py", ["harden", str(RECIPE), "--set", "data.name=cifar10", "--set", "data.root=none"]),
        (2, "small_cnn", ["harden", str(RECIPE), "--set", "model.timm=small_cn"]),
    ]
    for code, words, arguments in cases:
        assert run(*arguments) == code, arguments
        caught = capsys.readouterr()
        assert words in caught.err
        assert "Traceback" not in caught.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"], "nothing is half-written"


def test_a_loss_that_becomes_nan_stops_the_run_and_says_where(tmp_path, capsys):
    from mlflow import MlflowClient

    arguments = [*QUICK, "--set", "train.optimizer={sgd: {lr: 1.0e+30}}", "--set", "train.schedule=constant"]
    assert run("harden", str(RECIPE), *arguments, "--output", "out") == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "step" in message
    assert "'clean'" in message
    assert not (tmp_path / "out" / "undefended" / "best.pt").exists() or checkpoint.load(
        tmp_path / "out" / "undefended" / "best.pt"
    )
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.info.status for run in found] == ["FAILED", "FAILED"]  # of the whole, and of the undefended
