"""The command line: what it prints, its exit codes, and one line for every error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from art_ext.errors import ConfigError, DataError
from art_ext.host import cli

OUTSIDE = Path(__file__).parents[1] / "plugins" / "outside" / "art_ext_shout"
RECIPE = """\
schema: 1
name: demo
use: [{pgd_at: {eps: 0.1, steps: 5}}, pc_lc]
model: {timm: small_cnn}
data: {name: digits}
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "demo.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `art-ext` in this process: exit code, output, errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands for `art_ext.host.harden` and `art_ext.host.dry_run`, which train and probe."""
    fake = ModuleType("fake_job")
    fake.harden = lambda recipe, *, output, echo, trust: echo(f"hardened {recipe.name} to {output}")  # type: ignore[attr-defined]
    fake.dry_run = lambda recipe, echo, *, trust: echo(f"would harden {recipe.name}")  # type: ignore[attr-defined]
    for name in ("harden", "dry_run"):
        monkeypatch.setitem(sys.modules, f"art_ext.host.{name}", fake)
    return fake


def test_plugins_are_listed(run: Run) -> None:
    code, out, _ = run("plugins")
    assert code == 0
    assert out.splitlines()[0].split() == ["name", "version", "state", "offers"]
    assert any(line.startswith("baselines") and "pgd_at, trades" in line for line in out.splitlines())
    assert any(line.startswith("dac") and line.endswith("for ART: DACTrainer") for line in out.splitlines())


def test_plugins_as_json(run: Run) -> None:
    code, out, _ = run("plugins", "--json")
    listed = {info["name"]: info for info in json.loads(out)}
    assert code == 0
    assert listed["pc_lc"]["ingredients"] == ["pc_lc"]
    assert listed["core"]["state"] == "loaded"
    assert set(listed["core"]) >= {"distribution", "version", "hooks", "attacks", "datasets", "models", "cause"}


def test_explain_shows_slots_parts_and_owners(run: Run, recipe: Path) -> None:
    code, out, _ = run("explain", recipe, "--set", "pgd_at.steps=7")
    assert code == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "7 steps" in lines["attack"]
    assert lines["attack"].endswith("pgd_at")
    assert lines["criterion"].endswith("pc_lc")
    assert lines["update"].endswith("the default")


def test_contradictions_get_a_line_each(run: Run, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("pc_lc]", "trades]"))
    code, _, err = run("explain", recipe)
    assert code == 2
    assert err.splitlines() == [
        "error: pgd_at and trades both set the attack; remove one of them",
        "error: pgd_at and trades both set the risk; remove one of them",
    ]


def test_harden_hands_over_the_recipe(run: Run, recipe: Path, job: ModuleType, tmp_path: Path) -> None:
    assert run("harden", recipe, "--set", "name=other", "--output", tmp_path / "o")[:2] == (
        0,
        f"hardened other to {tmp_path / 'o'}\n",
    )
    assert run("harden", recipe, "--dry-run")[:2] == (0, "would harden demo\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hardn"], "no such command 'hardn'; did you mean 'harden'?"),
        (["--loud"], "no such option '--loud'"),
        (["explain"], "missing argument 'RECIPE'; see art-ext explain --help"),
        (["explain", "no/such.yaml"], "recipe no/such.yaml does not exist"),
        (["plugins", "--jsn"], "no such option '--jsn'"),
    ],
)
def test_wrong_arguments_exit_2_with_one_line(run: Run, arguments: list[str], said: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_each_mistake_in_a_recipe_gets_its_line(run: Run, recipe: Path) -> None:
    code, _, err = run("explain", recipe, "--set", "pc_lc.xi=2", "--set", "trian.epochs=3")
    assert code == 2
    first, second = err.splitlines()
    assert first == "error: --set pc_lc.xi: pc_lc.xi: input should be less than or equal to 1, got 2"
    assert second.startswith("error: --set trian.epochs: unknown setting")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ConfigError("no"), 2, "error: no\n"),
        (DataError("no data"), 3, "error: no data\n"),
        (KeyError("x"), 1, "error: unexpected KeyError: 'x'; run again with --debug for the traceback\n"),
        (RuntimeError("a\nb"), 1, "error: unexpected RuntimeError: a b; run again with --debug for the traceback\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_what_a_job_raises_becomes_one_line_and_a_code(
    run: Run, recipe: Path, job: ModuleType, raised: BaseException, code: int, said: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise raised

    job.harden = fails  # type: ignore[attr-defined]
    assert run("harden", recipe) == (code, "", said)
    assert "Traceback" in run("harden", recipe, "--debug")[2]
    assert "Traceback" in run("--debug", "harden", recipe)[2]


def test_help_and_version(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    commands = [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()]
    assert commands == sorted(commands)
    assert {"audit", "evaluate", "explain", "harden", "plugins", "report"} <= set(commands)
    assert run()[:2] == (0, out)
    assert run("--version")[1].startswith("art-ext, version ")


def test_a_plugin_from_outside_is_installed_listed_and_combined(tmp_path: Path, recipe: Path) -> None:
    import shutil

    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(OUTSIDE, source, ignore=shutil.ignore_patterns("__pycache__"))  # a build writes beside its source
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(source)], check=True, timeout=120)
    recipe.write_text(RECIPE.replace("pc_lc]", "pc_lc, shout: {times: 4}]"))
    code = f"""
from art_ext.host.cli import main
for arguments in (["plugins", "--json"], ["explain", {str(recipe)!r}]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, end.code
    print("=====")
"""
    env = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed, explained, _ = done.stdout.split("=====\n")
    shout = {info["name"]: info for info in json.loads(listed)}["shout"]
    assert (shout["distribution"], shout["version"], shout["state"]) == ("art-ext-shout", "1.2.3", "loaded")
    assert shout["ingredients"] == ["shout"]
    (attack,) = (line for line in explained.splitlines() if line.startswith("attack"))
    assert "20 steps" in attack
    assert attack.endswith("pgd_at, altered by shout")
