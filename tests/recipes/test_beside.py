"""Methods beside the recipe's own: as many updates, the same evaluation, shown next to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from art_ext.engine.journal import read_journal
from art_ext.errors import ConfigError
from art_ext.evaluation.record import read_evaluation
from art_ext.host.cli import main
from art_ext.host.job import prepare
from art_ext.host.recipe import load_recipe
from art_ext.host.roles import roles_of

RECIPE = """
schema: 1
name: half_steps
use:
  - pgd_at: {norm: linf, eps: 0.15, steps: 2}
  - dac: {stepsize: 0.3}
beside:
  pgd_at: [{pgd_at: {norm: linf, eps: 0.15, steps: 2}}]
model: {timm: small_cnn}
data: {name: digits}
threat: {norm: linf, eps: 0.15}
train: {threads: 1, epochs: 2, schedule: one_cycle}
evaluate: [{pgd: {steps: 1}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two updates a batch, beside PGD-AT with one."""
    place = tmp_path_factory.mktemp("beside")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Path("recipe.yaml").write_text(RECIPE)
        with pytest.raises(SystemExit) as stop:
            main(["harden", "recipe.yaml", "--output", "run"])
        assert not stop.value.code
    return place / "run"


def updates(role):
    entries = read_journal(role / "metrics.jsonl")
    return sum(entry.metrics["train/updates"] for entry in entries if entry.event == "epoch")


def test_it_makes_as_many_updates_in_more_epochs(folder):
    assert updates(folder / "pgd_at") == updates(folder / "hardened") == 2 * updates(folder / "undefended")
    entries = read_journal(folder / "pgd_at" / "metrics.jsonl")
    assert [entry.epoch for entry in entries if entry.event == "epoch"] == [1, 2, 3, 4]


def test_its_schedule_is_drawn_out_over_its_epochs(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    undefended, beside, hardened = roles_of(prepare(load_recipe(tmp_path / "recipe.yaml")))
    assert [role.epochs for role in (undefended, beside, hardened)] == [2, 4, 2]
    for share in (0.0, 0.3, 1.0):
        assert beside.schedule()(4 * share, 4) == pytest.approx(hardened.schedule()(2 * share, 2))


def test_the_evaluation_has_it_with_its_costs(folder):
    record, peer = (read_evaluation(folder / "evaluation" / role) for role in ("hardened", "pgd_at"))
    (beside,) = record.beside
    assert (beside.name, beside.worst_case, beside.clean) == ("pgd_at", peer.worst_case, peer.clean)
    assert beside.training == peer.model.training
    assert beside.training.updates == record.model.training.updates
    assert f"pgd_at with as many updates keeps {peer.worst_case.accuracy:.1%}" in record.verdict.sentence
    page = (folder / "evaluation" / "hardened" / "report.html").read_text()
    assert f"trained with {beside.training.updates:,} updates, {beside.training.forwards:,} forwards" in page


def test_its_recipe_trains_it_alone(folder):
    recipe = json.loads((folder / "pgd_at" / "architecture.json").read_text())["recipe"]
    assert [next(iter(item)) for item in recipe["use"]] == ["pgd_at"]
    assert recipe["train"]["epochs"] == 4
    assert recipe["beside"] == {}


def test_the_table_and_compare_show_it(folder, capsys):
    result = json.loads((folder / "result.json").read_text())
    assert list(result) == ["undefended", "pgd_at", "hardened"]
    with pytest.raises(SystemExit):
        main(["compare", str(folder)])
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.splitlines()[2:5]} == {"run/hardened", "run/undefended", "run/pgd_at"}


def test_examples_are_transferred_from_it(folder):
    record, peer = (read_evaluation(folder / "evaluation" / role) for role in ("hardened", "pgd_at"))
    names = {attack.name for attack in record.attacks if attack.family == "transfer"}
    assert names == {"transfer_undefended", "transfer_pgd_at"}
    assert {attack.name for attack in peer.attacks if attack.family == "transfer"} == {"transfer_undefended"}


def test_a_second_evaluation_finds_it_again(folder, capsys):
    place = folder / "evaluation" / "hardened"
    before = read_evaluation(place)
    with pytest.raises(SystemExit):
        main(["evaluate", str(folder), "--suite", "quick", "--output", str(place)])
    assert "pgd_at with as many updates keeps" in capsys.readouterr().out
    assert read_evaluation(place).attacks == before.attacks


def test_a_model_it_is_compared_with_is_called_by_its_method(folder, tmp_path, capsys):
    words = ["evaluate", str(folder), "--suite", "quick", "--baseline", str(folder / "pgd_at"), "--limit", "40"]
    with pytest.raises(SystemExit):
        main([*words, "--output", str(tmp_path / "out")])
    assert "; the pgd_at model keeps " in capsys.readouterr().out
    assert read_evaluation(tmp_path / "out").baseline.name == "pgd_at"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("beside={hardened: [pgd_at]}", "hardened names a folder of the run"),
        ("beside={Best: [pgd_at]}", "Best names a folder of the run"),
        ("beside={other: []}", "other uses nothing"),
        ("beside={other: [pgd_ta]}", "did you mean pgd_at"),
        ("beside={other: [{pgd_at: {epss: 1}}]}", "epss"),
        ("beside=[pgd_at]", "a mapping is needed"),
    ],
)
def test_bad_input_is_one_line(tmp_path, change, reason):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(ConfigError, match=f"(?i){reason}") as error:
        load_recipe(tmp_path / "recipe.yaml", [change])
    assert "\n" not in str(error.value)


def test_a_method_beside_that_would_train_without_its_own_part_is_refused_before_any_training(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    never = prepare(load_recipe(recipe, ["beside={warm: [{pc_lc: {warmup_epochs: 9}}]}"]))
    with pytest.raises(ConfigError, match=r"pc_lc warms up for 9 epochs and train\.epochs of warm is \d+, so its crit"):
        roles_of(never)
