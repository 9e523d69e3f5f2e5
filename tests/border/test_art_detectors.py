"""Detectors behind ART's interface."""

import numpy as np
import pytest
import torch
from art.defences.detector.evasion import EvasionDetector
from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from torch import nn

from art_ext.border.art_detectors import MethodDetector, spread
from art_ext.errors import ConfigError, DataError
from art_ext.parts.detectors import Confidence, Detector


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    return PyTorchClassifier(module, nn.CrossEntropyLoss(), (1, 4, 4), 3, clip_values=(0, 1), device_type="cpu")


def data(classifier, n=50):
    """Images with the classifier's own answers for labels."""
    x = np.random.default_rng(0).random((n, 1, 4, 4), dtype=np.float32)
    return x, classifier.predict(x).argmax(1)


class Nearest(Detector):
    """Minus the distance to the nearest feature of a bank."""

    name = "nearest"
    needs = frozenset({"features"})
    bank = None

    def fit(self, out, y):
        self.bank = out.extras["features"]

    def score(self, out):
        return -torch.cdist(out.extras["features"], self.bank).amin(1)


def test_an_image_below_the_threshold_is_rejected(classifier):
    x, y = data(classifier)
    detector = MethodDetector(classifier, Confidence(), tpr=0.9)
    assert isinstance(detector, EvasionDetector)
    assert detector.threshold is None
    detector.fit(x, np.eye(3)[y], batch_size=16, nb_epochs=1)
    report, rejected = detector.detect(x, batch_size=16)
    p = torch.softmax(torch.tensor(classifier.predict(x)), 1).amax(1).numpy()
    np.testing.assert_allclose(report["scores"], p, rtol=1e-5)
    assert rejected.dtype == bool
    assert rejected.sum() == 5, "10% of 50 correct images"
    np.testing.assert_array_equal(rejected, report["scores"] < detector.threshold)
    np.testing.assert_allclose(report["predictions"], classifier.predict(x), rtol=1e-5, atol=1e-6)
    # in other batches the scores may differ in their last bit, which only the image at the threshold notices
    sevens, _ = detector.detect(x, batch_size=7)
    np.testing.assert_allclose(sevens["scores"], report["scores"], rtol=1e-5)


def test_the_threshold_of_a_bank_is_set_on_other_rows(classifier):
    x, y = data(classifier)
    detector = MethodDetector(classifier, Nearest(), tpr=0.9, held_out=0.2)
    detector.fit(x, y)
    assert len(detector.detector.bank) == 40
    scores = detector.detect(x)[0]["scores"]
    apart = np.arange(50) % 5 == 4
    assert np.abs(scores[~apart]).max() < 1e-3
    assert scores[apart].max() < 0
    assert detector.threshold == sorted(scores[apart])[1]
    with pytest.raises(ConfigError, match="too few"):
        MethodDetector(classifier, Nearest(), held_out=0.5).fit(x[:1], y[:1])


@pytest.mark.parametrize(
    ("n", "share", "count"), [(10, 0.1, 1), (9, 0.1, 0), (100, 0.29, 29), (7, 0.5, 3), (3, 0.999, 2)]
)
def test_held_out_rows_are_spread_over_all(n, share, count):
    places = spread(n, share).nonzero().squeeze(1)
    assert len(places) == count
    gaps = torch.diff(places)
    assert count < 3 or int(gaps.max() - gaps.min()) <= 1


def test_the_model_keeps_its_modes_flags_and_statistics(classifier):
    x, y = data(classifier)
    classifier.model.train()
    classifier.model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    detector = MethodDetector(classifier, Confidence())
    detector.fit(x, y)
    detector.detect(x)
    assert classifier.model.training
    assert classifier.model[1].training
    assert not classifier.model[0].weight.requires_grad
    assert classifier.model[4].weight.requires_grad
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_parameters_are_read_changed_and_refused(classifier):
    detector = MethodDetector(classifier, Confidence())
    assert detector.get_params() == {"tpr": 0.99, "held_out": 0.1}
    detector.set_params(tpr=0.95)
    assert detector.get_params()["tpr"] == 0.95
    with pytest.raises(ValueError, match="did you mean tpr"):
        detector.set_params(tprr=0.9)
    with pytest.raises(ValueError, match="tpr must lie"):
        detector.set_params(tpr=1.5)
    assert detector.get_params()["tpr"] == 0.95, "a refused value leaves the old one"
    for options in ({"tpr": 0}, {"held_out": 1}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            MethodDetector(classifier, Confidence(), **options)


def test_what_cannot_be_used_is_refused_in_a_line(classifier):
    x, y = data(classifier)
    detector = MethodDetector(classifier, Confidence())
    with pytest.raises(ConfigError, match="no threshold yet; fit it"):
        detector.detect(x)
    with pytest.raises(DataError, match="shape"):
        detector.fit(x[:, :, :3], y)
    with pytest.raises(DataError):
        detector.fit(x + 1, y)
    with pytest.raises(ConfigError, match="correctly classified"):
        detector.fit(x, (y + 1) % 3)
    with pytest.raises(ConfigError, match="batch_size"):
        detector.fit(x, y, batch_size=0)
    with pytest.raises(ConfigError, match="did you mean batch_size"):
        detector.fit(x, y, batchsize=3)
    with pytest.raises(EstimatorError):
        MethodDetector(object(), Confidence())
