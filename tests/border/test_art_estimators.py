"""Any ART classifier as a network: its layout, its answers, ART's gradients past a defence, or answers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.defences.postprocessor import Rounded
from art.defences.preprocessor import Preprocessor, SpatialSmoothing
from art.estimators.classification import (
    BlackBoxClassifier,
    BlackBoxClassifierNeuralNetwork,
    PyTorchClassifier,
    SklearnClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import art_ext
from art_ext.border.art_estimators import opened
from art_ext.errors import ConfigError, DataError, ModelError
from art_ext.evaluation.verdict import two_lines


def data(n=30):
    """A bright row says which of three classes a 6 x 6 image is."""
    y = np.arange(n) % 3
    x = np.random.default_rng(0).random((n, 1, 6, 6)).astype(np.float32) * 0.6
    for label in range(3):
        x[y == label, 0, 2 * label] += 0.4
    return x, y


def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x, y = (torch.tensor(part) for part in data(90))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module.eval()


@pytest.fixture(scope="module")
def module():
    return network()


def flat(x):
    return x.reshape(len(x), -1)


def sklearn(kind):
    x, y = data(90)
    return SklearnClassifier(kind.fit(flat(x), y), clip_values=(0, 1))


def torch_classifier(module, **defences):
    return PyTorchClassifier(
        module, nn.CrossEntropyLoss(), (1, 6, 6), 3, clip_values=(0, 1), device_type="cpu", **defences
    )


def black_box(module, change=lambda p: p, kind=BlackBoxClassifierNeuralNetwork):
    def predict(x):
        return change(module(torch.tensor(np.asarray(x, dtype=np.float32))).softmax(1).detach().numpy())

    return kind(predict, (1, 6, 6), 3, clip_values=(0, 1))


class ToEighths(Preprocessor):
    """Rounds pixels, outside of torch; its gradient is ART's default, the identity."""

    @property
    def apply_fit(self):
        return False

    @property
    def apply_predict(self):
        return True

    def __call__(self, x, y=None):
        return (np.round(8 * x) / 8).astype(np.float32), y


def test_images_are_turned_into_the_layout_of_the_classifier_and_back(module):
    x, _ = data(6)

    def last(images):
        return module(torch.tensor(np.moveaxis(np.asarray(images, dtype=np.float32), 3, 1).copy())).detach().numpy()

    channels_last = BlackBoxClassifierNeuralNetwork(last, (6, 6, 1), 3, channels_first=False, clip_values=(0, 1))
    expected = module(torch.tensor(x)).detach()
    for classifier, given in ((channels_last, np.moveaxis(x, 1, 3)), (torch_classifier(module), x)):
        known = opened(classifier, given)
        assert known.layout.shape == known.facts.input_shape == (1, 6, 6)
        ours = torch.tensor(np.array(known.layout.ours(given)))
        torch.testing.assert_close(ours, torch.tensor(x))
        torch.testing.assert_close(known.module(ours), expected)
    tree = sklearn(DecisionTreeClassifier(max_depth=4))
    for given, shape in ((flat(x), (1, 1, 36)), (x, (1, 6, 6))):
        known = opened(tree, given)
        assert known.facts.input_shape == shape
        ours = torch.tensor(known.layout.ours(given))
        assert np.allclose(known.module(ours).numpy(), tree.predict(flat(x)))
    assert any("images of 1 x 36 pixels" in note for note in opened(tree, flat(x)).notes)


class Plainly:
    """A classifier whose class gradients are those of its answers."""

    nb_classes, input_shape, clip_values = 3, (36,), (0.0, 1.0)

    def __init__(self, of):
        self.of = of

    def predict(self, x):
        return self.of.predict(x)

    def class_gradient(self, x, label=None):
        return self.predict(x)[:, :, None] * self.of.class_gradient(x, label)


@pytest.mark.parametrize("plainly", [False, True])
def test_gradients_of_rows_are_those_of_the_answers(plainly):
    """Against differences: ART gives those of the logarithm of logistic regression, and others of the answers."""
    classifier = sklearn(LogisticRegression())
    classifier = Plainly(classifier) if plainly else classifier
    x, _ = data(4)
    known = opened(classifier, x)
    assert known.gradients
    assert known.module.of_logarithm is not plainly
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    (grad,) = torch.autograd.grad((known.module(at) * weights).sum(), at)
    step = 3e-3  # scikit-learn answers in float32
    for i, j in ((0, 0), (2, 3), (5, 5)):
        moved = torch.zeros_like(at)
        moved[:, 0, i, j] = step
        difference = ((known.module(at + moved) - known.module(at - moved)) * weights).sum(1) / (2 * step)
        torch.testing.assert_close(grad[:, 0, i, j], difference.detach(), rtol=0.02, atol=2e-3)


def test_past_a_defence_the_gradient_is_that_of_what_comes_after_it(module):
    """BPDA: forwards the rounded image, backwards as if nothing had been rounded."""
    x, y = data(6)
    known = opened(torch_classifier(module, preprocessing_defences=[ToEighths()]), x)
    assert "ToEighths before it" in known.notes[0]
    at = torch.tensor(x, requires_grad=True)
    rounded = (torch.tensor(x) * 8).round() / 8
    torch.testing.assert_close(known.module(at).detach(), module(rounded).detach())
    (grad,) = torch.autograd.grad(F.cross_entropy(known.module(at), torch.tensor(y)), at)
    there = rounded.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(module(there), torch.tensor(y)), there)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "defences",
    [
        {"preprocessing_defences": [ToEighths()]},
        {"preprocessing_defences": [SpatialSmoothing(window_size=3, channels_first=True)]},
        {"postprocessing_defences": [Rounded(decimals=2)]},
    ],
    ids=["eighths", "smoothing", "rounded"],
)
def test_a_classifier_with_defences_around_it_is_audited_as_it_answers(module, defences):
    x, y = data(9)
    classifier = torch_classifier(module, **defences)
    record = art_ext.audit(classifier, x, y, eps=0.05, verbose=False)
    assert record.clean.accuracy == (classifier.predict(x).argmax(1) == y).mean()
    assert {"gradient", "black-box"} <= {attack.family for attack in record.attacks}
    assert not any(attack.error for attack in record.attacks)
    assert any(type(next(iter(defences.values()))[0]).__name__ in note for note in record.notes)


@pytest.mark.parametrize("name", ["tree", "network", "labels"])
def test_a_classifier_that_answers_alone_is_attacked_through_its_answers(module, name, tmp_path):
    x, y = data(9)
    classifier, given = {
        "tree": (sklearn(DecisionTreeClassifier(max_depth=4)), flat(x)),
        "network": (black_box(module), x),
        "labels": (black_box(module, lambda p: np.eye(3)[p.argmax(1)], BlackBoxClassifier), x),
    }[name]
    record = art_ext.audit(classifier, given, y, eps=0.2, verbose=False, folder=tmp_path)
    assert {attack.family for attack in record.attacks} == {"black-box"}
    assert {attack.name for attack in record.attacks} == {"random_search", "square", "rays500", "spsa20x32"}
    assert not any(attack.error or attack.backwards for attack in record.attacks)
    assert record.worst_case.accuracy < record.clean.accuracy
    status = {check.name: check.status for check in record.checks}
    assert len(status) == 16
    assert {name for name, found in status.items() if found == "not_run"} >= {
        *("one_step", "transfer", "random_search", "unbounded", "eps_order", "zero_gradients", "saturated_logits"),
        *("losses", "more_effort"),
    }
    assert status["black_box"] == "warn"
    assert status["random_answers"] == status["batch"] == "pass"
    assert "no attack saw gradients" in two_lines(record)[1]
    assert record.curve == ()
    assert (tmp_path / "report.html").is_file()


def test_examples_of_a_surrogate_are_tried_on_a_black_box(module):
    x, y = data(9)
    surrogate = torch_classifier(module)
    record = art_ext.audit(black_box(module), x, y, eps=0.1, verbose=False, baseline=surrogate)
    assert record.attack("transfer_undefended").family == "transfer"
    others = {"hardened": surrogate, "other": torch_classifier(module)}
    known = art_ext.audit(surrogate, x, y, eps=0.1, verbose=False, surrogates=others)
    assert known.attack("transfer_hardened").accuracy == known.attack("transfer_other").accuracy < known.clean.accuracy
    assert known.baseline is None
    with pytest.raises(ModelError, match="the surrogate closed gives answers alone"):
        art_ext.audit(surrogate, x, y, eps=0.1, verbose=False, surrogates={"closed": black_box(module)})
    with pytest.raises(ModelError, match="baseline gives answers alone"):
        art_ext.audit(surrogate, x, y, eps=0.1, verbose=False, baseline=black_box(module))


def test_what_cannot_be_a_classifier_of_images_is_one_line(module):
    x, y = data(6)
    unfitted = SklearnClassifier(DecisionTreeClassifier(), clip_values=(0, 1))
    bare = BlackBoxClassifierNeuralNetwork(lambda x: x, (1, 6, 6), 3)
    for classifier, given, error, said in (
        (object(), x, ModelError, "is no ART classifier"),
        (unfitted, flat(x), ModelError, "does not say what its images are like"),
        (bare, x, ConfigError, "no clip_values"),
        (sklearn(DecisionTreeClassifier()), flat(x)[:, :30], DataError, r"\(30,\), but the classifier takes \(36,\)"),
        (torch_classifier(module), flat(x), DataError, "resize the images"),
    ):
        with pytest.raises(error, match=said) as raised:
            art_ext.audit(classifier, given, y, eps=0.1, verbose=False)
        assert "\n" not in str(raised.value)
