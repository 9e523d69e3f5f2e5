"""`art-ext resume` as a user calls it: from anywhere, and in one line where it cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import endings
import pytest

from art_ext.engine.fit import Fit
from art_ext.host.cli import main
from art_ext.host.folders import held


class PowerCut(BaseException):
    pass


def call(capfd, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    caught = capfd.readouterr()
    assert "Traceback" not in caught.err
    return int(stop.value.code or 0), caught.out, caught.err


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The folder where a run was started and cut off in the hardened training; and its whole twin."""
    folder = tmp_path_factory.mktemp("interrupted")
    take, steps, before = Fit.take, [], Path.cwd()

    def counted(fit, batch, weight=1.0):
        steps.append(1)
        if len(steps) == 24:
            raise PowerCut
        return take(fit, batch, weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        endings.without_tracking(patch.setattr)
        with pytest.raises(SystemExit):
            main(endings.arguments("whole"))
        patch.setattr(Fit, "take", counted)
        with pytest.raises(PowerCut):
            main(endings.arguments("run"))
    assert Path.cwd() == before
    return folder


@pytest.fixture
def run(interrupted, tmp_path, monkeypatch):
    """A copy of the interrupted run, and another working folder."""
    endings.without_tracking(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(interrupted / "run", copy)
    return copy


def test_from_another_folder_it_goes_on_to_the_same_end(run, interrupted, capfd):
    assert sorted(path.name for path in (run / "hardened").glob("step-*")) == ["step-00000005.pt", "step-00000007.pt"]
    code, out, _ = call(capfd, "resume", str(run))
    assert code == 0
    assert f"resumes   {run}: undefended done" in out
    assert "accuracy (95% interval)" in out
    assert endings.same(endings.outcome(run), endings.outcome(interrupted / "whole"))
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (run, interrupted / "whole"))
    for role in one:
        for result in (one[role], other[role]):
            result.pop("train_seconds")
            for row in (*result["best"], *result["last"]):
                row.pop("seconds")
    assert one == other
    code, out, _ = call(capfd, "resume", str(run))
    assert (code, out) == (0, f"the run in {run} is finished; its result is in {run / 'result.json'}\n")


def edited(run, **changes):
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_cannot_go_on_says_so_in_one_line(run, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    cases = [
        (2, "holds no run of art-ext harden", tmp_path / "empty", lambda: None),
        (2, "holds no run of art-ext harden", tmp_path / "none", lambda: None),
        (2, "was started in /nowhere, which is gone", run, lambda: edited(run, started_in="/nowhere")),
        (3, "are not those that the run", run, lambda: edited(run, started_in=str(tmp_path), data="sha256:0")),
        (2, "another version of art_ext wrote it", run, lambda: edited(run, schema=9)),
        (2, "run.json cannot be read", run, lambda: (run / "run.json").write_text("{")),
    ]
    for code, words, folder, prepare in cases:
        prepare()
        found, _, err = call(capfd, "resume", str(folder))
        assert (found, words in err) == (code, True), err
        assert len(err.strip().splitlines()) == 1


def test_all_states_damaged_is_one_line_with_the_way_out(run, capfd):
    for path in (run / "hardened").glob("step-*.pt"):
        path.write_bytes(path.read_bytes()[:-40])
    code, _, err = call(capfd, "resume", str(run))
    assert code == 3
    assert f"error: every checkpoint in {run / 'hardened'} is damaged" in err.splitlines()[-1]
    assert "remove that folder and resume again" in err.splitlines()[-1]


def test_a_folder_has_one_process_at_a_time(run, capfd):
    with held(run):
        code, _, err = call(capfd, "resume", str(run))
    assert code == 2
    assert f"process {os.getpid()} is at work in {run}" in err
    assert not (run / ".lock").exists()


def test_a_new_run_does_not_go_into_an_old_one(run, capfd):
    code, _, err = call(capfd, *endings.arguments(str(run)))
    assert code == 2
    assert f"art-ext resume {run} goes on with the run in it" in err


@pytest.mark.slow
def test_sigterm_ends_mlflow_s_run_as_killed_and_resume_as_finished(tmp_path):
    from mlflow import MlflowClient

    program = [str(Path(sys.executable).parent / "art-ext")]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    options = {"cwd": tmp_path, "env": environment, "text": True, "stderr": subprocess.PIPE}
    words = endings.arguments("run", train__epochs="12")
    process = subprocess.Popen([*program, *words], stdout=subprocess.DEVNULL, **options)
    lines = []
    for line in process.stderr:  # progress
        lines.append(line)
        if "undefended: epoch" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 143, "".join(lines) + rest
    assert "stopped by SIGTERM after step" in rest
    assert f"go on with: art-ext resume {tmp_path / 'run'}" in rest
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")

    def found():
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return {run.data.tags["art_ext.role"]: run for run in client.search_runs(experiments)}

    assert {role: run.info.status for role, run in found().items()} == {"harden": "KILLED", "undefended": "KILLED"}
    done = subprocess.run([*program, "resume", "run"], stdout=subprocess.DEVNULL, check=False, timeout=600, **options)
    assert done.returncode == 0, done.stderr
    ended = found()
    assert {ended[role].info.status for role in ("harden", "undefended", "hardened")} == {"FINISHED"}
    for role in ("undefended", "hardened"):
        points = client.get_metric_history(ended[role].info.run_id, "train/loss")
        assert [point.step for point in points] == list(range(1, 13))
