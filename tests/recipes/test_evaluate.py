"""`art-ext evaluate` and `art-ext audit` as a user runs them, and the same from Python on ART classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import art_ext
from art_ext.border.timm import build_model
from art_ext.data.entry import DatasetOptions
from art_ext.data.onboard import digits
from art_ext.errors import ConfigError, DataError, ModelError
from art_ext.evaluation.examples import read_examples
from art_ext.evaluation.record import read_evaluation
from art_ext.host.cli import main
from art_ext.host.evaluating import Request, find, prepare

FEW = ["--limit", "24"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def network():
    """A small network, trained for a second."""
    found = digits(DatasetOptions())
    model = build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for _ in range(2):
        for index in torch.split(torch.arange(len(found.train)), 64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(found.train.x[index]), found.train.y[index]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "digits.pt"
    torch.save(network.state_dict(), path)
    return str(path)


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_an_audit_is_two_lines_and_a_report(weights, capsys):
    assert run("audit", weights, "--set", "threat.eps=0.1", "--data", "digits/standard", *FEW, "--output", "out") == 3
    assert "--recipe" in capsys.readouterr().err  # nothing says which network the weights are of
    assert run("evaluate", weights, "--recipe", "digits/standard", "--suite", "quick", *FEW, "--output", "out") == 0
    out = capsys.readouterr().out
    words = ("model ", "threat    linf 0.15", "pgd20_margin", ")+  ", "+ together with", "trust checks", "report: ")
    for word in (*words, "robust accuracy"):
        assert word in out
    record = read_evaluation("out")
    assert record.model.ingredients == ()
    assert record.data.n == 24
    assert record.complete
    assert {"fgsm", "pgd20", "apgd_ce", "square"} <= {attack.name.split("400")[0] for attack in record.attacks}
    assert len(read_examples("out").index) == 24
    assert "<html" in Path("out/report.html").read_text()[:300].lower()
    # again, for a new question: what is there is not attacked again
    seconds = record.attack("pgd20").seconds
    arguments = ["--recipe", "digits/standard", *FEW, "--suite", "quick", "--output", "out"]
    assert run("evaluate", weights, *arguments, "--max-minutes", "5") == 0
    assert read_evaluation("out").attack("pgd20").seconds == seconds


def test_shards_of_the_command_line_meet_in_a_folder(weights, capsys):
    arguments = ["evaluate", weights, "--recipe", "digits/standard", "--suite", "quick", *FEW, "--eps", "8/255"]
    assert run(*arguments, "--output", "whole") == 0
    for shard in ("0/2", "1/2"):
        assert run(*arguments, "--output", "shared", "--shard", shard) == 0
    assert "shard 1/2 is done" in capsys.readouterr().out
    assert run(*arguments, "--output", "shared") == 0
    whole, shared = read_evaluation("whole"), read_evaluation("shared")
    assert whole.worst_case == shared.worst_case
    assert [(a.name, a.accuracy) for a in whole.attacks] == [(a.name, a.accuracy) for a in shared.attacks]
    assert whole.threat.eps == pytest.approx(8 / 255)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("there is no model", ["none.pt"]),
        ("eps must be above 0 and finite, got -1", ["WEIGHTS", "--recipe", "digits/standard", "--eps", "-1"]),
        ("eps must be above 0 and finite, got nan", ["WEIGHTS", "--recipe", "digits/standard", "--eps", "nan"]),
        ("eps must be above 0 and finite, got inf", ["WEIGHTS", "--recipe", "digits/standard", "--eps", "inf"]),
        ("give --eps for l2", ["WEIGHTS", "--recipe", "digits/standard", "--norm", "l2"]),
        ("is no question", ["WEIGHTS", "--recipe", "digits/standard", "--until-settled", "robust"]),
        ("number of images from 1", ["WEIGHTS", "--recipe", "digits/standard", "--limit", "0"]),
        ("unknown data set 'digit'", ["WEIGHTS", "--recipe", "digits/standard", "--data", "digit"]),
        ("must be above 0", ["WEIGHTS", "--recipe", "digits/standard", "--max-minutes", "0"]),
        ("is not a number", ["WEIGHTS", "--eps", "much"]),
        ("no shard", ["WEIGHTS", "--recipe", "digits/standard", "--shard", "2"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(weights, capsys, said, arguments):
    code = run("evaluate", *(weights if word == "WEIGHTS" else word for word in arguments))
    error = capsys.readouterr().err
    assert code in (2, 3)
    assert said in error
    assert error.count("\n") == 1
    assert not list(Path().iterdir())


def seen_data(place):
    return next(check for check in read_evaluation(place).checks if check.name == "seen_data")


def test_images_it_has_seen_are_looked_for_where_its_training_is_known_alone(network, weights, tmp_path):
    """A checkpoint of strangers may have been trained on any images: the data set's own split says nothing of it."""
    from art_ext.api import Facts
    from art_ext.host.beside import describe_network, keep_network, write_weights

    stranger = tmp_path / "stranger"
    stranger.mkdir()
    keep_network(stranger, describe_network(network, Facts(10, (1, 8, 8)), {}))
    write_weights(stranger / "weights.safetensors", dict(network.state_dict()))
    asked = ["--suite", "quick", *FEW]
    assert run("evaluate", stranger, "--data", "digits", "--eps", "0.1", *asked, "--output", "unknown") == 0
    check = seen_data("unknown")
    assert check.status == "not_run"
    assert "--recipe" in check.sentence
    # the recipe names the data that it was trained on, whatever it is evaluated on
    training = digits(DatasetOptions()).train
    for data in (None, "digits", "digits/pgd_at"):
        request = Request(weights, recipe="digits/standard", data=data)
        seen = prepare(find(request), request).seen
        assert len(seen["training"].y) + len(seen["selection"].y) == len(training)
        assert len(seen["selection"].y) == pytest.approx(0.2 * len(training), abs=10)


def classifier(model, **options):
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu", **options
    )


def some(n=24):
    test = digits(DatasetOptions()).test
    return test.x[:n].numpy(), test.y[:n].numpy()


def test_art_classifiers_are_audited_from_python(network, capsys, tmp_path):
    x, y = some()
    network.train()
    record = art_ext.audit(classifier(network), x, np.eye(10)[y], eps=0.1, folder=tmp_path / "audit")
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.eval()
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("clean ")
    assert "trust checks pass" in second or "do not trust" in second
    assert len(rest) == 1
    assert read_evaluation(tmp_path / "audit") == record
    assert record.suite == "quick"
    scaled = classifier(network, preprocessing=(0.0, 1.0))
    again = art_ext.audit(scaled, x, y, eps=0.1, verbose=False)
    assert again.worst_case == record.worst_case
    assert capsys.readouterr().out == ""


def test_what_python_callers_get_wrong_is_one_line(network):
    x, y = some(4)
    for wrong, error, said in (
        ({"x": 255 * x}, DataError, "divide x by 255"),
        ({"y": y + 7}, DataError, "label"),
        ({"x": x[:, :, :4]}, DataError, "shape"),
        ({"suite": "fast"}, ConfigError, "unknown suite"),
        ({"norm": "l7"}, ConfigError, "unknown norm"),
        ({"norm": 3}, ConfigError, "norm 3"),
        ({"eps": -1.0}, ConfigError, "eps must be above 0"),
        ({"eps": float("nan")}, ConfigError, "eps must be above 0 and finite, got nan"),
        ({"eps": np.inf}, ConfigError, "eps must be above 0 and finite, got inf"),
        ({"eps": "much"}, ConfigError, "eps: 'much' is not a number"),
        ({"eps": None}, ConfigError, "eps: a number is needed, got None"),
        ({"classifier": object()}, ModelError, "is no ART classifier"),
        ({"sute": "quick"}, ConfigError, "unknown option of an evaluation 'sute'; did you mean suite"),
        ({"batch_size": 2.5}, ConfigError, "batch_size is a whole number from 1, got 2.5"),
        ({"seed": "0"}, ConfigError, "seed is a whole number from 0, got '0'"),
        ({"minutes": "soon"}, ConfigError, "minutes: 'soon' is not a number"),
        ({"minutes": 0}, ConfigError, "above 0"),
        ({"until": 0.4}, ConfigError, "is no question"),
        ({"calibration": x}, ConfigError, r"calibration is a pair of images and labels, \(x, y\), got a ndarray"),
        ({"training": (x,)}, ConfigError, "training is a pair"),
        ({"ingredients": ["pgd_at"]}, ConfigError, "ingredients are values in a list"),
        ({"tprs": [99]}, ConfigError, "a TPR lies above 0 and up to 1"),
        ({"tprs": "high"}, ConfigError, "tprs"),
        ({"baseline": object()}, ModelError, "is no ART classifier"),
    ):
        given = {"classifier": classifier(network), "x": x, "y": y, "eps": 0.1, **wrong}
        with pytest.raises(error, match=said) as raised:
            art_ext.evaluate(given.pop("classifier"), given.pop("x"), given.pop("y"), **given)
        assert "\n" not in str(raised.value)


def test_rejection_by_confidence_is_judged_for_any_network_at_any_tpr(network, weights, capsys):
    """From Python with held-out rows, on the command line with --tpr, and by a recipe."""
    x, y = some(24)
    held_out = digits(DatasetOptions()).train
    held = held_out.x[:200].numpy(), held_out.y[:200].numpy()
    found = art_ext.audit(classifier(network), x, y, eps=0.1, verbose=False, calibration=held, tprs=[0.9])
    assert {(item.detector, item.asked_tpr, item.own) for item in found.rejection} == {("confidence", 0.9, False)}
    assert {item.aim for item in found.rejection} == {"evade", "deny", "distal"}
    assert found.attack("evade_confidence").family == "informed"
    scores = network(torch.tensor(held[0])).softmax(1)
    right = scores.argmax(1).numpy() == held[1]
    kept = (scores.amax(1)[torch.tensor(right)] >= found.rejection[0].threshold).float().mean()
    assert kept == pytest.approx(0.9, abs=0.01)
    assert art_ext.audit(classifier(network), x, y, eps=0.1, verbose=False).rejection == ()
    for asked, wanted in (((), (0.8,)), ((0.95, 0.7), (0.95, 0.7))):
        request = Request(weights, recipe="digits/standard", overrides=["tprs=[0.8]"], tprs=asked)
        assert tuple(prepare(find(request), request).options.tprs) == wanted
    assert run("evaluate", weights, "--recipe", "digits/standard", "--tpr", "99", "--output", "wrong") == 2
    assert "a TPR lies above 0 and up to 1" in capsys.readouterr().err


@pytest.mark.parametrize(("norm", "name"), [(np.inf, "linf"), (2, "l2"), (1.0, "l1"), ("l2", "l2")])
def test_threats_are_said_as_art_says_them_and_as_papers_do(network, norm, name):
    found = art_ext.Evaluation(classifier(network), *some(4), norm=norm, eps="8/255", suite="quick").core.threat
    assert (found.norm, found.eps, found.clip) == (name, pytest.approx(8 / 255), (0.0, 1.0))


def test_an_evaluation_by_hand_is_that_of_the_function_and_prints_nothing(network, capsys):
    assert "Evaluation" in dir(art_ext)
    x, y = some(16)
    asked = {"eps": 0.1, "suite": "quick"}
    by_hand = art_ext.Evaluation(classifier(network), x, y, **asked).run()
    assert capsys.readouterr().out == ""
    same = art_ext.evaluate(classifier(network), x, y, verbose=False, **asked)
    assert [attack.accuracy for attack in by_hand.attacks] == [attack.accuracy for attack in same.attacks]
    assert {"square", "apgd_ce"} <= {attack.name for attack in by_hand.attacks}
    with pytest.raises(ConfigError, match="did you mean suite"):
        art_ext.Evaluation(classifier(network), x, y, eps=0.1, siute="quick")


def test_settings_that_would_change_nothing_are_refused(weights, capsys):
    for setting, said in (
        ("track.uri=sqlite:///x.db", "set the server with --tracking-uri"),
        ("train.seed=3", "name one with --recipe"),
    ):
        assert run("audit", weights, "--data", "digits", "--eps", "0.1", *FEW, "--set", setting, "--output", "out") == 2
        assert f"--set {setting} changes a recipe, and none is named here; {said}" in capsys.readouterr().err


@pytest.mark.slow
def test_harden_ends_with_the_recipe_s_suite(capsys):
    quick = ["train.epochs=2", "pgd_at.steps=1", "threat.norm=linf", "threat.eps=0.3", "evaluate=quick"]
    settings = [word for setting in quick for word in ("--set", setting)]
    assert run("harden", "digits/pgd_at", *settings, "--output", "out") == 0
    record = read_evaluation("out/evaluation/hardened")
    assert record.model.ingredients == ("pgd_at",)
    assert record.attack("pgd_at_attack").of == "pgd_at"
    assert record.baseline is not None
    assert Path("out/evaluation/hardened/report.html").is_file()
    out = capsys.readouterr().out
    assert f"robust {record.worst_case}" in out
    assert json.loads(Path("out/recipe.json").read_text())["suite"] == "quick"
