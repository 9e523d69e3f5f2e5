"""ART's contract, met through ART's own classes: trainers, attacks, and ART's attacks inside ours."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.data_generators import PyTorchDataGenerator
from art.defences.preprocessor import JpegCompression
from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from torch import nn

from art_ext.border.art import RecipeTrainer
from art_ext.engine.observe import EpochReport, Observer
from art_ext.engine.run import RunSettings
from art_ext.errors import ComposeError, ConfigError, DataError, ModelError, NonFiniteError
from art_ext_baselines import (
    PGDAT,
    TRADES,
    FreeATTrainer,
    GuidedComplementEntropyTrainer,
    PGDATAttack,
    PGDATTrainer,
    TRADESAttack,
    TRADESTrainer,
)
from art_ext_cat import CATTrainer
from art_ext_pc_lc import PCLC, PCLCAttack, PCLCTrainer

EPS = 0.15


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images / 16).astype(np.float32)[:, None], found.target


def network(width: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 9, 10),
    )


def classifier(optimizer: bool = True, lr: float = 0.1, scale: float = 1.0, **options: object) -> PyTorchClassifier:
    torch.manual_seed(0)
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9) if optimizer else None
    settings = {"clip_values": (0.0, scale), "device_type": "cpu", **options}
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=sgd, **settings)


def accuracy(target: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> float:
    return float((target.predict(x).argmax(1) == y).mean())


def weights(target: PyTorchClassifier) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in target.model.parameters()])


# ------------------------------------------------------------------------------------ trainers


def test_adversarial_training_buys_robustness_that_arts_own_attack_confirms(digits):
    x, y = digits
    plain, hardened = classifier(), classifier()
    plain.fit(x[:1300], y[:1300], nb_epochs=12, batch_size=128)
    PGDATTrainer(hardened, eps=EPS, steps=5, track=False).fit(x[:1300], y[:1300], nb_epochs=12)
    robust = {}
    for name, target in (("plain", plain), ("hardened", hardened)):
        attack = ProjectedGradientDescent(target, eps=EPS, eps_step=0.02, max_iter=20, verbose=False, batch_size=256)
        robust[name] = accuracy(target, attack.generate(x[1300:], y[1300:]), y[1300:])
    assert robust["hardened"] > robust["plain"] + 0.2


def test_index_and_one_hot_labels_train_alike(digits):
    x, y = digits
    results = []
    for labels in (y[:200], np.eye(10)[y[:200]], y[:200].tolist(), torch.from_numpy(y[:200])):
        target = classifier()
        PGDATTrainer(target, eps=EPS, steps=2, track=False).fit(x[:200], labels, nb_epochs=1)
        results.append(weights(target))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(digits):
    x, y = digits
    results = []
    for seed in (0, 0, 1):
        target = classifier()
        PGDATTrainer(target, eps=EPS, steps=2, seed=seed, track=False).fit(x[:200], y[:200], nb_epochs=2)
        results.append(weights(target))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_read_only_float64_and_list_inputs_train(digits):
    x, y = digits
    fixed = x[:100].copy()
    fixed.setflags(write=False)
    for images in (fixed, x[:100].astype(np.float64), x[:100].tolist(), torch.from_numpy(x[:100])):
        PGDATTrainer(classifier(), eps=EPS, steps=1, track=False).fit(images, y[:100], nb_epochs=1)


@pytest.mark.parametrize("fails", [False, True])
def test_the_classifier_keeps_its_number_types_after_a_run_in_another(digits, fails):
    """Helpers and the optimizer too, whether or not the training came to its end."""
    x, y = digits
    target = classifier()
    trainer = CATTrainer(target, eps=EPS, steps=1, track=False, settings=RunSettings(precision="64-true"))
    if fails:
        with torch.no_grad():
            target.model[-1].weight.fill_(float("inf"))
        with pytest.raises(NonFiniteError):
            trainer.fit(x[:64], y[:64], nb_epochs=1, batch_size=32)
    else:
        trainer.fit(x[:64], y[:64], nb_epochs=1, batch_size=32)
    kept = [*target.model.state_dict().values(), *(s["momentum_buffer"] for s in target.optimizer.state.values())]
    assert {tensor.dtype for tensor in kept} == {torch.float32, torch.int64}
    if not fails:
        assert trainer.calibrated(x[:4], y[:4])[0].dtype == np.float32
        assert PGDATAttack(target, eps=EPS, steps=1).generate(x[:4]).dtype == np.float32
        trainer.fit(x[:64], y[:64], nb_epochs=1, batch_size=32)
        PGDATTrainer(target, eps=EPS, steps=1, track=False).fit(x[:64], y[:64], nb_epochs=1)


@pytest.mark.parametrize("trainer", [PCLCTrainer, GuidedComplementEntropyTrainer, FreeATTrainer])
def test_an_attack_that_would_never_be_called_is_refused(trainer):
    target = classifier()
    attack = ProjectedGradientDescent(target, eps=EPS, eps_step=0.02, max_iter=2, verbose=False)
    with pytest.raises(ConfigError, match=r"would never call ProjectedGradientDescent\w*; leave attack out, or "):
        trainer(target, attack=attack)
    RecipeTrainer(target, [PGDAT(), PCLC(warmup_epochs=0)], attack=attack)
    with pytest.raises(ConfigError, match="ordinary training uses clean rows alone"):
        RecipeTrainer(target, [], attack=attack)


@pytest.mark.parametrize("eps", [0.15, 2.5, 0])
def test_a_radius_in_pixels_is_a_whole_number(eps):
    with pytest.raises(ConfigError, match=r"whole number from 1|greater than 0"):
        PCLCAttack(classifier(), norm="l0", eps=eps)


def test_eps_is_in_clip_value_units_under_mean_std_preprocessing(digits):
    x, y = digits
    unit = classifier()
    bytes_ = classifier(scale=255.0, preprocessing=(0.0, 255.0))
    kwargs = {"nb_epochs": 2, "batch_size": 100}
    PGDATTrainer(unit, eps=0.1, steps=2, track=False).fit(x[:300], y[:300], **kwargs)
    PGDATTrainer(bytes_, eps=25.5, steps=2, track=False).fit(x[:300] * 255, y[:300], **kwargs)
    torch.testing.assert_close(weights(unit), weights(bytes_), rtol=1e-3, atol=1e-4)


def test_standardisation_is_seen_by_training_and_attacks(digits):
    x, y = digits
    target = classifier(preprocessing=(0.3, 0.35))
    PGDATTrainer(target, eps=EPS, steps=3, track=False).fit(x[:1000], y[:1000], nb_epochs=8)
    assert accuracy(target, x[1000:], y[1000:]) > 0.8
    adversarial = PGDATAttack(target, eps=EPS, steps=10).generate(x[1000:1200], y[1000:1200])
    assert np.abs(adversarial - x[1000:1200]).max() <= EPS + 1e-6
    assert accuracy(target, adversarial, y[1000:1200]) < accuracy(target, x[1000:1200], y[1000:1200])


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 3),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [1]
        ),
    ],
)
def test_any_scheduler_is_stepped_once_an_epoch(make, digits):
    x, y = digits
    target = classifier()
    scheduler = make(target.optimizer)
    steps = []
    step = scheduler.step
    scheduler.step = lambda *args, **kwargs: (steps.append(1), step(*args, **kwargs))[1]
    PGDATTrainer(target, eps=EPS, steps=1, track=False).fit(
        x[:200], y[:200], nb_epochs=3, batch_size=50, scheduler=scheduler
    )
    assert len(steps) == 3


def test_a_scheduler_decides_the_learning_rate(digits):
    x, y = digits
    target = classifier()
    scheduler = torch.optim.lr_scheduler.StepLR(target.optimizer, 1, 0.1)
    trainer = PGDATTrainer(target, eps=EPS, steps=1, track=False)
    trainer.fit(x[:100], y[:100], nb_epochs=3, scheduler=scheduler)
    assert trainer.history is not None
    assert [report.metrics["lr"] for report in trainer.history.epochs] == pytest.approx([0.1, 0.01, 0.001])


def test_arts_generator_is_one_epoch_long_each_epoch(digits):
    x, y = digits
    data = torch.utils.data.TensorDataset(torch.from_numpy(x[:250]), torch.from_numpy(y[:250]))
    loader = torch.utils.data.DataLoader(data, batch_size=100, shuffle=True)
    target = classifier()
    before = weights(target).clone()
    trainer = TRADESTrainer(target, eps=EPS, steps=1, track=False)
    trainer.fit_generator(PyTorchDataGenerator(loader, size=250, batch_size=100), nb_epochs=2)
    assert trainer.history is not None
    assert [report.step for report in trainer.history.epochs] == [3, 6]
    assert not torch.equal(weights(target), before)


def test_validation_data_choose_the_best_epoch_and_its_weights_stay(digits):
    x, y = digits
    target = classifier(lr=0.2)
    seen = {}

    class Watch(Observer):
        def epoch_end(self, report: EpochReport) -> None:
            seen[report.epoch] = weights(target).clone()

    trainer = PGDATTrainer(target, eps=EPS, steps=2, track=False, callbacks=[Watch()])
    trainer.fit(x[:300], y[:300], nb_epochs=4, validation_data=(x[300:400], np.eye(10)[y[300:400]]))
    history = trainer.history
    assert history is not None
    assert history.best is not None
    assert history.best.robust == max(report.scores.robust for report in history.epochs)
    assert torch.equal(weights(target), seen[history.best_epoch])


def test_without_validation_data_the_last_epoch_stays(digits):
    x, y = digits
    trainer = PGDATTrainer(classifier(), eps=EPS, steps=1, track=False)
    trainer.fit(x[:100], y[:100], nb_epochs=3)
    assert trainer.history is not None
    assert trainer.history.best_epoch == 3


def test_a_last_batch_of_one_trains(digits):
    x, y = digits
    PGDATTrainer(classifier(), eps=EPS, steps=1, track=False).fit(x[:65], y[:65], nb_epochs=1, batch_size=64)


def test_a_combination_of_ingredients(digits):
    x, y = digits
    target = classifier()
    trainer = RecipeTrainer(target, [PCLC(warmup_epochs=1), PGDAT(eps=EPS, steps=2)], track=False)
    trainer.fit(x[:200], y[:200], nb_epochs=3)
    assert trainer.history is not None
    assert np.isfinite(trainer.history.epochs[-1].metrics["train/loss"])


# ------------------------------------------------------- ART's attacks inside ours, ours inside ART


def test_the_trades_example_of_art_runs_with_only_the_import_changed(digits):
    x, y = digits
    target = classifier()
    attack = ProjectedGradientDescent(
        target, norm=np.inf, eps=EPS, eps_step=0.05, max_iter=3, num_random_init=1, batch_size=128, verbose=False
    )
    trainer = TRADESTrainer(target, attack, 6.0, track=False)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(target.optimizer, [1])
    trainer.fit(x[:300], y[:300], nb_epochs=2, scheduler=scheduler, validation_data=(x[300:350], y[300:350]))
    assert trainer.plan().compose().risk.beta == 6.0
    assert accuracy(target, x[:300], y[:300]) > 0.2


def test_arts_attack_leaves_no_gradients_and_no_mode_behind(digits):
    x, y = digits
    target = classifier()
    attack = FastGradientMethod(target, eps=EPS)
    calls = []
    generate = attack.generate
    attack.generate = lambda *a, **k: (calls.append(len(a[0])), generate(*a, **k))[1]
    target.model.eval()
    PGDATTrainer(target, attack, track=False).fit(x[:100], y[:100], nb_epochs=1, batch_size=50)
    assert calls == [50, 50]
    assert not target.model.training
    assert all(p.grad is None and p.requires_grad for p in target.model.parameters())


# ------------------------------------------------------------------------------------- attacks


@pytest.fixture(scope="module")
def trained(digits) -> PyTorchClassifier:
    x, y = digits
    target = classifier()
    target.fit(x[:1300], y[:1300], nb_epochs=8, batch_size=128)
    target.optimizer.zero_grad(set_to_none=True)  # ART's own fit leaves gradients behind
    return target


@pytest.mark.parametrize("kind", [PGDATAttack, TRADESAttack, PCLCAttack])
def test_an_attack_lowers_accuracy(kind, trained, digits):
    x, y = (part[1300:1400] for part in digits)
    made = kind(trained, eps=EPS, steps=10).generate(x, y)
    assert accuracy(trained, made, y) < accuracy(trained, x, y) - 0.2


def test_results_do_not_depend_on_the_batch_size(trained, digits):
    x, y = (part[1300:1400] for part in digits)
    made = [PGDATAttack(trained, eps=EPS, steps=5, batch_size=b).generate(x, y) for b in (100, 7)]
    assert (np.abs(made[0] - made[1]) < 1e-5).mean() > 0.999


def test_our_pgd_is_as_strong_as_arts_from_the_same_start(trained, digits):
    x, y = (part[1300:1500] for part in digits)
    ours = PGDATAttack(trained, eps=EPS, steps=20, step_size=0.02, start="zero").generate(x, y)
    art = ProjectedGradientDescent(trained, eps=EPS, eps_step=0.02, max_iter=20, verbose=False, batch_size=256)
    assert accuracy(trained, ours, y) <= accuracy(trained, art.generate(x, y), y) + 0.005


def test_targeted_reaches_its_class_and_needs_one(trained, digits):
    x, y = (part[1300:1400] for part in digits)
    goal = (y + 1) % 10
    attack = PGDATAttack(trained, eps=0.4, steps=30, targeted=True, objective="margin")
    reached = trained.predict(attack.generate(x, goal)).argmax(1) == goal
    assert reached.mean() > 0.5
    with pytest.raises(ConfigError, match="needs y"):
        attack.generate(x)
    with pytest.raises(ConfigError, match="no targeted form"):
        TRADESAttack(trained, eps=EPS, targeted=True).generate(x, goal)


@pytest.mark.parametrize("shape", [(1, 8, 8), (100, 1, 8, 8), (8, 8)])
def test_a_mask_says_where_pixels_may_change(shape, trained, digits):
    x, y = (part[1300:1400] for part in digits)
    mask = np.zeros(shape, dtype=np.float32)
    mask[..., :4, :] = 1
    for norm, eps in (("linf", EPS), ("l2", 1.0), ("l1", 4.0)):
        delta = PGDATAttack(trained, norm=norm, eps=eps, steps=5).generate(x, y, mask=mask) - x
        assert np.abs(delta[..., 4:, :]).max() == 0
        assert np.abs(delta[..., :4, :]).max() > 0


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.full((1, 8, 8), 5.0), "values outside"),
        (np.full((1, 8, 8), -1.0), "values outside"),
        (np.full((1, 8, 8), np.nan), "values outside"),
        (np.ones((3, 3)), r"mask \(3, 3\) does not fit the images \(4, 1, 8, 8\)"),
        ("all", "mask str does not fit"),
    ],
)
def test_what_is_no_mask_is_refused(mask, said, trained, digits):
    x, y = (part[1300:1304] for part in digits)
    for attack in (PGDATAttack(trained, eps=EPS, steps=1), TRADESAttack(trained, eps=EPS, steps=1)):
        with pytest.raises(DataError, match=said):
            attack.generate(x, y, mask=mask)
    with pytest.raises(ConfigError, match="unknown option of generate 'maks'; did you mean mask"):
        attack.generate(x, y, maks=np.ones((1, 8, 8)))


def test_without_labels_the_models_own_predictions_are_taken(trained, digits):
    x = digits[0][1300:1340]
    predicted = trained.predict(x).argmax(1)
    attack = PGDATAttack(trained, eps=EPS, steps=3)
    np.testing.assert_array_equal(attack.generate(x), attack.generate(x, predicted))


def test_set_params_and_attack_params(trained, digits):
    x, y = (part[1300:1340] for part in digits)
    attack = PGDATAttack(trained, eps=EPS, steps=3)
    assert {"eps", "steps", "norm", "targeted", "batch_size"} <= set(attack.attack_params)
    attack.set_params(eps=0.05, verbose=False, batch_size=11)
    assert attack.eps == 0.05
    assert attack.steps == 3
    assert np.abs(attack.generate(x, y) - x).max() <= 0.05 + 1e-6
    with pytest.raises(ValueError, match="did you mean eps"):
        attack.set_params(epss=0.1)
    with pytest.raises(ValueError, match="greater than 0"):
        attack.set_params(eps=-1)
    assert attack.eps == 0.05


def test_the_attack_sees_later_training(trained, digits):
    x, y = (part[1300:1400] for part in digits)
    target = classifier()
    attack = PGDATAttack(target, eps=EPS, steps=5)
    attack.generate(x, y)
    target.fit(digits[0][:500], digits[1][:500], nb_epochs=3, batch_size=64)
    fresh = PGDATAttack(target, eps=EPS, steps=5)
    np.testing.assert_array_equal(attack.generate(x, y), fresh.generate(x, y))


# ----------------------------------------------------------------------------------- bad input


def message(error: type[Exception], call) -> str:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_bad_arrays_get_one_clear_line_and_no_training(digits):
    x, y = digits[0][:50], digits[1][:50]
    target = classifier()
    before = weights(target).clone()
    trainer = PGDATTrainer(target, eps=EPS, steps=1, track=False)
    broken = x.copy()
    broken[7, 0, 0, 0] = np.nan
    cases = {
        "row 7": (broken, y),
        "outside the clip range": (x * 255, y),
        "50 images": (x, y[:40]),
        "empty": (x[:0], y[:0]),
        "0 to 9": (x, y + 1),
        "only the class": (x, np.zeros(50, dtype=int)),
        "(N, C, H, W)": (x[:, 0], y),
        "the classifier takes": (x[:, :, :4], y),
    }
    for words, (images, labels) in cases.items():
        assert words in message(DataError, lambda images=images, labels=labels: trainer.fit(images, labels))
    assert "row 7" in message(DataError, lambda: PGDATAttack(target, eps=EPS).generate(broken, y))
    assert torch.equal(weights(target), before)


def test_bad_options_get_one_clear_line(digits):
    x, y = digits
    target = classifier()
    assert "did you mean eps" in message(ConfigError, lambda: PGDATTrainer(target, epss=0.1))
    assert "greater than 0" in message(ConfigError, lambda: PGDATTrainer(target, eps=0))
    assert "steps" in message(ConfigError, lambda: PGDATTrainer(target, steps=0))
    assert "divides by zero" in message(ConfigError, lambda: PGDATTrainer(target, eps="8/0"))
    trainer = PGDATTrainer(target, eps="8/255", steps=1, track=False)
    assert "did you mean nb_epochs" in message(ConfigError, lambda: trainer.fit(x, y, nb_epoch=1))
    assert "whole number" in message(ConfigError, lambda: trainer.fit(x, y, nb_epochs=0))
    assert "whole number" in message(ConfigError, lambda: trainer.fit(x, y, batch_size=2.5))
    assert "values such as" in message(ConfigError, lambda: RecipeTrainer(target, [PGDAT]))
    both = message(ComposeError, lambda: RecipeTrainer(target, [PGDAT(), TRADES()]))
    assert "pgd_at and trades both set the attack" in both
    assert "EvasionAttack" in message(ConfigError, lambda: TRADESTrainer(target, object(), 6.0))


def test_wrong_classifiers_get_one_clear_line():
    message(EstimatorError, lambda: PGDATTrainer(object()))
    message(EstimatorError, lambda: PGDATAttack(object()))
    assert "no optimizer" in message(ModelError, lambda: PGDATTrainer(classifier(optimizer=False)))
    defended = classifier(preprocessing_defences=JpegCompression(clip_values=(0, 1), channels_first=True))
    assert "JpegCompression" in message(ModelError, lambda: PGDATTrainer(defended))
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    sgd = torch.optim.SGD(single.parameters(), lr=0.1)
    one = PyTorchClassifier(single, nn.BCEWithLogitsLoss(), (1, 8, 8), 2, optimizer=sgd, clip_values=(0, 1))
    assert "logit" in message(ModelError, lambda: PGDATTrainer(one))
    foreign = classifier()
    foreign._optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    trainer = PGDATTrainer(foreign, eps=EPS, steps=1, track=False)
    x, y = np.zeros((4, 1, 8, 8), dtype=np.float32), np.array([0, 1, 2, 3])
    assert "holds none" in message(ModelError, lambda: trainer.fit(x, y))


def test_a_loss_that_is_not_finite_stops_the_run(digits):
    x, y = digits
    target = classifier(lr=1e30)
    trainer = PGDATTrainer(target, eps=EPS, steps=1, track=False)
    text = message(NonFiniteError, lambda: trainer.fit(x[:300], y[:300], nb_epochs=3, batch_size=50))
    assert "step" in text
    assert "adversarial" in text
    assert target.model.training  # as a new network is


def test_the_readmes_three_lines(digits):
    from art_ext_baselines import PGDATTrainer

    x, y = digits
    target = classifier()
    trainer = PGDATTrainer(target, eps=0.15, steps=10, track=False)
    trainer.fit(x[:200], y[:200], nb_epochs=1)
    assert trainer.predict(x[:3]).shape == (3, 10)


def test_history_and_ingredients_can_be_pickled(digits):
    x, y = digits
    trainer = PGDATTrainer(classifier(), eps=EPS, steps=1, track=False)
    trainer.fit(x[:60], y[:60], nb_epochs=1)
    assert trainer.history is not None
    assert pickle.loads(pickle.dumps(trainer.ingredients)) == trainer.ingredients
    assert pickle.loads(pickle.dumps(trainer.history)).best_epoch == 1
