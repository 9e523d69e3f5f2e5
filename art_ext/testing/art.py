"""What every ART trainer, attack and detector of a plugin must do, met as ART's own code would meet it."""

from __future__ import annotations

import functools
import inspect
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.data_generators import PyTorchDataGenerator
from art.defences.detector.evasion import EvasionDetector
from art.defences.trainer import AdversarialTrainer, Trainer
from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_ext.border.art import AroundTrainer, MethodAttack, MethodTrainer
from art_ext.engine.offers import needs_of
from art_ext.ingredient import Ingredient, Paper
from art_ext.parts.attacks import PGD
from art_ext.parts.ensemble import ensemble
from art_ext.parts.norms import Linf
from art_ext.parts.risks import Madry
from art_ext.plan import Plan
from art_ext.testing.ingredients import FACTS, tiny_network, trial_of

Make = Callable[[Any], Any]
"""(classifier) to a small instance of the class under test."""
IMAGES = 8
MANY = 64
"""Images for a detector, whose bank needs some."""
ROUNDING = 1e-6
SIMILAR = 1e-4
NORMS: dict[str, float] = {"linf": np.inf, "l2": 2, "l1": 1}


class Sparring(Ingredient):
    """Two steps of PGD: what a method that goes around another one is tried around."""

    name = "sparring"
    paper = Paper("none", "none", "none", 0)

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=PGD(Linf(0.1), 2, clip=plan.facts.clip), risk=Madry())


def made(kind: type[Any], classifier: Any) -> Any:
    """A small instance: by the class's own `example(classifier)`, else with the `trial` of its ingredient."""
    example = getattr(kind, "example", None)
    if example is not None:
        return example(classifier)
    if issubclass(kind, AroundTrainer):
        return kind(classifier, Sparring(), track=False, verbose=False, **kind.ingredient.trial)
    if issubclass(kind, MethodTrainer):
        return kind(classifier, track=False, verbose=False, **kind.ingredient.trial)
    if issubclass(kind, MethodAttack):
        return kind(classifier, **kind.ingredient.trial)
    return kind(classifier)


def tiny_classifier(kind: type | None = None) -> PyTorchClassifier:
    """A classifier of images (N, 1, 6, 6) in [0, 1], 4 classes, that a class can work on.

    An ensemble where the ingredient of `kind` reads members; for an attack, after the ingredient's surgery.
    """
    ingredient = getattr(kind, "ingredient", None)
    plan = Plan(FACTS)
    if ingredient is not None and not hasattr(kind, "example"):
        plan = trial_of(ingredient).apply(plan)
    model: nn.Module = tiny_network()
    if "members" in needs_of(plan):
        model = ensemble([tiny_network(0), tiny_network(1)])
    if isinstance(kind, type) and issubclass(kind, EvasionAttack):
        model = plan.operate(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        FACTS.input_shape,
        FACTS.n_classes,
        optimizer=sgd,
        clip_values=FACTS.clip,
        device_type="cpu",
    )


def images(n: int = IMAGES) -> tuple[Any, Any]:
    """(n, 1, 6, 6) float32 and (n,) classes; read-only, so that whoever writes into them is found out."""
    x = np.random.default_rng(0).random((n, *FACTS.input_shape), dtype=np.float32)
    y = np.arange(n) % FACTS.n_classes
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def check_trainer(kind: type[Any], make: Make | None = None) -> None:
    """Checks a `Trainer`: it trains in place, leaves all else as it was, and refuses what it does not know.

    Args:
        make: (classifier) to a small instance; by default `kind.example`, else from its ingredient's `trial`.

    Raises:
        AssertionError: in one line, what is wrong.
    """
    make = make or (lambda classifier: made(kind, classifier))
    name = _named(kind, Trainer)
    _refuses_others(name, make)
    x, y = images()
    weights = []
    for labels in (y, np.eye(FACTS.n_classes)[y]):
        classifier = tiny_classifier(kind)
        model, optimizer, before = classifier.model, classifier.optimizer, _weights(classifier)
        fixed = _disturb(model)
        held = fixed.detach().clone()
        trainer = make(classifier)
        with _as_it_was(name, classifier):
            assert trainer.fit(x, labels, nb_epochs=2, batch_size=4) is None, f"{name}.fit returns something"
        assert trainer.get_classifier() is classifier, f"{name}.get_classifier gives another classifier"
        assert classifier.model is model, f"{name}.fit replaces the classifier's model"
        assert classifier.optimizer is optimizer, f"{name}.fit replaces the classifier's optimizer"
        assert torch.equal(fixed, held), f"{name}.fit moves a weight that is frozen"
        after = _weights(classifier)
        assert _differ(before, after), f"{name}.fit moves no weight"
        assert all(bool(value.isfinite().all()) for value in after.values()), f"{name}.fit leaves weights not finite"
        assert trainer.predict(x).shape == (len(x), FACTS.n_classes), f"{name}.predict does not give logits (N, K)"
        weights.append(after)
    assert not _differ(*weights), f"{name}.fit trains otherwise on one-hot labels than on indices"
    _trains_on_a_generator(name, make, kind)
    trainer = make(tiny_classifier(kind))
    before = _weights(trainer.get_classifier())
    _refused(f"{name}.fit(nb_epoch=)", lambda: trainer.fit(x, y, nb_epoch=1), "did you mean nb_epochs")
    _refused(f"{name}.fit of 8 images with 7 labels", lambda: trainer.fit(x, y[:7], nb_epochs=1, batch_size=4))
    assert not _differ(before, _weights(trainer.get_classifier())), f"{name}.fit trains before it refuses its input"
    _refuses_a_misspelt_option(name, kind, getattr(kind, "trainer_params", ()))


def _trains_on_a_generator(name: str, make: Make, kind: type) -> None:
    x, y = images()
    data = TensorDataset(torch.from_numpy(x.copy()), torch.from_numpy(y.copy()))
    classifier = tiny_classifier(kind)
    before = _weights(classifier)
    generator = PyTorchDataGenerator(DataLoader(data, batch_size=4), size=len(x), batch_size=4)
    trainer = make(classifier)
    with _as_it_was(name, classifier):
        trainer.fit_generator(generator, nb_epochs=1)
    assert _differ(before, _weights(classifier)), f"{name}.fit_generator moves no weight"


def check_attack(kind: type[Any], make: Make | None = None) -> None:
    """Checks an `EvasionAttack`: shapes, ranges and its ball, ART's options, and that it leaves no trace.

    `takes_mask = True` on the class promises that `generate(..., mask=)` is honoured.

    Args:
        make: (classifier) to a small instance; by default `kind.example`, else from its ingredient's `trial`.

    Raises:
        AssertionError: in one line, what is wrong.
    """
    make = make or (lambda classifier: made(kind, classifier))
    name = _named(kind, EvasionAttack)
    _refuses_others(name, make)
    x, y = images()
    classifier = tiny_classifier(kind)
    before = _weights(classifier)
    _disturb(classifier.model)
    attack = make(classifier)
    with _as_it_was(name, classifier):
        found = attack.generate(x, y)
        _is_allowed(name, attack, x, found)
        assert not np.array_equal(found, x), f"{name}.generate changes no image"
        one_hot = attack.generate(x, np.eye(FACTS.n_classes)[y])
        assert np.array_equal(found, one_hot), f"{name}.generate attacks otherwise on one-hot labels, or when repeated"
        assert np.array_equal(found, attack.generate(x, y, x_init=x)), f"{name}.generate changes with an x_init"
        _is_allowed(name, attack, x, attack.generate(x))
        _keeps_to_a_mask(name, attack, x, y)
        _takes_batches(name, attack, x, y, found)
        _may_be_targeted(name, attack, x, y)
    assert not _differ(before, _weights(classifier)), f"{name}.generate moves the weights"
    _options_are_arts(name, kind, attack, attack.attack_params, lambda: repr(attack))
    _refuses_a_misspelt_option(name, kind, attack.attack_params)
    attack = make(classifier)
    AdversarialTrainer(classifier, attack, ratio=0.5).fit(x.copy(), y.copy(), batch_size=4, nb_epochs=1)


def _is_allowed(name: str, attack: Any, x: Any, found: Any) -> None:
    assert isinstance(found, np.ndarray), f"{name}.generate gives a {type(found).__name__}, not an array"
    assert found.shape == x.shape, f"{name}.generate gives shape {found.shape} for {x.shape}"
    assert found.dtype == np.float32, f"{name}.generate gives {found.dtype}"
    low, high = FACTS.clip
    assert np.isfinite(found).all(), f"{name}.generate gives pixels that are not finite"
    assert found.min() >= low, f"{name}.generate leaves the clip values"
    assert found.max() <= high, f"{name}.generate leaves the clip values"
    eps, norm = getattr(attack, "eps", None), getattr(attack, "norm", None)
    if isinstance(eps, int | float) and norm in NORMS:
        lengths = np.linalg.norm((found - x).reshape(len(x), -1).astype(np.float64), ord=NORMS[norm], axis=1)
        far = lengths.max()
        assert far <= eps * (1 + ROUNDING) + ROUNDING, f"{name}.generate goes {far} far, eps is {eps}"


def _keeps_to_a_mask(name: str, attack: Any, x: Any, y: Any) -> None:
    if not getattr(attack, "takes_mask", False):
        return
    half = np.zeros(x.shape[1:], dtype=np.float32)
    half[..., :3, :] = 1
    for mask in (half, np.broadcast_to(half, x.shape)):
        found = attack.generate(x, y, mask=mask)
        _is_allowed(name, attack, x, found)
        assert np.array_equal(found[..., 3:, :], x[..., 3:, :]), f"{name}.generate changes pixels outside the mask"


def _takes_batches(name: str, attack: Any, x: Any, y: Any, found: Any) -> None:
    if "batch_size" not in attack.attack_params:
        return
    usual = attack.batch_size
    attack.set_params(batch_size=3)
    near = np.abs(attack.generate(x, y) - found).reshape(len(x), -1).max(1) < SIMILAR
    attack.set_params(batch_size=usual)
    assert near.sum() >= len(x) - 1, f"{name}.generate gives other images with another batch_size"


def _may_be_targeted(name: str, attack: Any, x: Any, y: Any) -> None:
    if "targeted" not in attack.attack_params or attack.targeted:
        return
    try:
        attack.set_params(targeted=True)
    except ValueError as error:
        words = _line(f"{name}.set_params(targeted=True)", error)
        assert "targeted" in words, f"{name} cannot be targeted and does not say so: {words}"
        assert not attack.targeted, f"{name} refuses to be targeted, and is so afterwards"
        return
    _refused(f"{name}.generate without the targets it is told to reach", lambda: attack.generate(x))
    try:
        found = attack.generate(x, (y + 1) % FACTS.n_classes)
    except ValueError as error:
        words = _line(f"{name}, targeted,", error)
    else:
        _is_allowed(name, attack, x, found)
        words = "targeted"
    assert "targeted" in words, f"{name} cannot be targeted and does not say so: {words}"
    attack.set_params(targeted=False)


def check_detector(kind: type[Any], make: Make | None = None) -> None:
    """Checks an `EvasionDetector`: fitted on clean images it answers for each image, and its options are ART's.

    Args:
        make: (classifier) to a small instance; by default `kind.example`, else from its ingredient's `trial`.

    Raises:
        AssertionError: in one line, what is wrong.
    """
    make = make or (lambda classifier: made(kind, classifier))
    name = _named(kind, EvasionDetector)
    _refuses_others(name, make)
    classifier = tiny_classifier(kind)
    before = _weights(classifier)
    _disturb(classifier.model)
    x, _ = images(MANY)
    answers = []
    y = tiny_classifier(kind).predict(x).argmax(1)
    with _as_it_was(name, classifier):
        for labels in (y, np.eye(FACTS.n_classes)[y]):
            detector = make(classifier)
            _refused(f"{name}.detect before fit", functools.partial(detector.detect, x))
            detector.fit(x, labels, batch_size=16, nb_epochs=1)
            report, rejected = detector.detect(x, batch_size=7)
            assert isinstance(report, dict), f"{name}.detect gives no report"
            assert np.asarray(rejected).dtype == bool, f"{name}.detect does not answer in bool"
            assert np.asarray(rejected).shape == (len(x),), f"{name}.detect does not answer for each image"
            answers.append(rejected)
        assert np.array_equal(*answers), f"{name}.fit takes one-hot labels otherwise than indices"
        assert not answers[0].all(), f"{name}.detect rejects all the clean images that it was fitted on"
        _refused(f"{name}.fit(batchsize=)", lambda: detector.fit(x, y, batchsize=8), "did you mean batch_size")
    assert not _differ(before, _weights(classifier)), f"{name}.fit moves the weights"
    params = detector.get_params()
    assert set(params) == set(detector.defence_params), f"{name}.get_params gives {sorted(params)}"
    _options_are_arts(name, kind, detector, detector.defence_params, detector.get_params)
    _refuses_a_misspelt_option(name, kind, detector.defence_params)


# ------------------------------------------------------------------------------------ what all must do


def _named(kind: type, base: type) -> str:
    name = kind.__name__
    assert issubclass(kind, base), f"{name} is no {base.__name__} of ART"
    assert inspect.getdoc(kind), f"{name} has no docstring"
    assert pickle.loads(pickle.dumps(kind)) is kind, f"{name} cannot be found by its name, so it cannot be pickled"
    return name


def _refuses_others(name: str, make: Make) -> None:
    """What is no `PyTorchClassifier` raises ART's EstimatorError."""
    try:
        make(object())
    except EstimatorError:
        return
    raise AssertionError(f"{name} takes an object that is no classifier; it must raise EstimatorError")


def _refuses_a_misspelt_option(name: str, kind: type, options: Any) -> None:
    """Python's own TypeError will do; whoever collects keywords must suggest the right one."""
    wrong = max(options, key=len, default="classifiers")[:-1]
    try:
        kind(tiny_classifier(kind), **{wrong: 1})
    except TypeError:
        return
    except ValueError as error:
        words = _line(f"{name}({wrong}=)", error)
    else:
        words = "nothing at all"
    assert "did you mean" in words, f"{name}({wrong}=) is not refused with a suggestion, but with {words}"


def _options_are_arts(name: str, kind: type, made_one: Any, options: Any, show: Callable[[], object]) -> None:
    """Every argument can be read and changed, and an unknown one is a ValueError that changes nothing."""
    arguments = inspect.signature(kind).parameters.values()
    named = [a.name for a in arguments if a.kind not in (a.VAR_KEYWORD, a.VAR_POSITIONAL)][1:]
    lacking = sorted(set(named) - set(options) - {"summary_writer"})
    assert not lacking, f"{name} takes {', '.join(lacking)}, which its list of options lacks"
    for option in options:
        assert hasattr(made_one, option), f"{name} lists the option {option} but has no such attribute"
    values = {option: getattr(made_one, option) for option in options}
    shown = str(show())
    assert all(option in shown for option in options), f"the text of a {name} does not show all of its options"
    made_one.set_params(**values)
    assert str(show()) == shown, f"{name}.set_params with the present options changes them"
    wrong = max(options, key=len)[:-1]
    _refused(f"{name}.set_params({wrong}=)", lambda: made_one.set_params(**{wrong: 1}), "did you mean")
    assert str(show()) == shown, f"{name}.set_params changes options although it refuses"


def _refused(what: str, call: Callable[[], object], words: str = "") -> None:
    try:
        call()
    except ValueError as error:
        text = _line(what, error)
    else:
        raise AssertionError(f"{what} is not refused with a ValueError")
    assert words in text, f"{what} is refused without {words!r}: {text}"


def _line(what: str, error: Exception) -> str:
    text = str(error)
    assert text, f"{what} is refused without a word"
    assert "\n" not in text, f"{what} is refused in more than one line: {text}"
    return text


def _weights(classifier: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in classifier.model.state_dict().items()}


def _differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() != other.keys() or any(not torch.equal(one[name], other[name]) for name in one)


def _disturb(model: nn.Module) -> nn.Parameter:
    """Mixed modes and a frozen weight, which are the user's to keep; the weight."""
    model.eval()
    parts = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    parts[0].train()
    weight = next(value for value in model.parameters() if value.ndim > 1)
    weight.requires_grad_(False)
    return weight


def _numpy_state() -> str:
    return str(np.random.get_state(legacy=False))


@contextmanager
def _as_it_was(name: str, classifier: Any) -> Iterator[None]:
    """Modes, flags and the global generators must be afterwards what they were, and no gradient stay behind."""
    modes = {part: module.training for part, module in classifier.model.named_modules()}
    flags = {part: value.requires_grad for part, value in classifier.model.named_parameters()}
    states = torch.random.get_rng_state(), _numpy_state(), random.getstate()
    yield
    for part, module in classifier.model.named_modules():
        was = modes.get(part, module.training)
        assert module.training == was, f"{name} does not restore the mode of {part or 'the model'}"
    for part, value in classifier.model.named_parameters():
        assert value.requires_grad == flags.get(part, value.requires_grad), f"{name} does not restore {part}'s flag"
        assert value.grad is None, f"{name} leaves a gradient at {part}"
    assert torch.equal(torch.random.get_rng_state(), states[0]), f"{name} draws from torch's global generator"
    assert _numpy_state() == states[1], f"{name} draws from NumPy's global generator"
    assert random.getstate() == states[2], f"{name} draws from Python's global generator"
