"""A fit that was interrupted and goes on ends as one that was not, bit for bit, whatever it is made of."""

import math
import signal

import numpy as np
import pytest
import torch
from torch import nn

from art_ext.api import Ingredient, Plan, Scores
from art_ext.data.batches import ArrayBatches, StreamBatches
from art_ext.engine import checkpoint
from art_ext.engine.checkpoint import Shelf
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.observe import Observer
from art_ext.engine.offers import needs_of
from art_ext.engine.optim import cosine, make_optimizer, tuned
from art_ext.engine.run import Run, RunSettings
from art_ext.engine.signals import Signals
from art_ext.errors import CheckpointError, ComposeError, ConfigError, Stopped
from art_ext.host.manager import default_manager
from art_ext.parts.ensemble import ensemble
from art_ext.parts.surgery import find_head
from art_ext.testing import FACTS, tiny_network, trial_of
from art_ext_baselines import PGDAT
from art_ext_pc_lc import PCLC

N, BATCH, EPOCHS = 22, 6, 3
KINDS = default_manager().catalogue.ingredients
BASE = PGDAT(eps=0.1, steps=2, clean_fraction=0.5)


def data(n=N):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, *FACTS.input_shape, generator=generator), torch.arange(n) % FACTS.n_classes


def batches(seed=0):
    return ArrayBatches(*data(), BATCH, seed=seed)


class PowerCut(BaseException):
    """The process is gone, and so is all that was in memory."""


class Fragile(Fit):
    """Is interrupted in step `stop_at`, after the weights have moved."""

    stop_at = -1

    def take(self, batch, weight=1.0):
        number, logs = self.run.step, super().take(batch, weight)
        if number == self.stop_at:
            raise PowerCut
        return logs


def build(ingredients, *, stop_at=-1, optimizer="sgd", network=tiny_network, scheduler=None, **options):
    """A fit as a new process would make it."""
    plan = Plan.of(ingredients, FACTS)
    needs = needs_of(plan)
    torch.manual_seed(1)
    model = plan.operate(ensemble([network(0), network(1)]) if "members" in needs else network())
    net = Net(model, head=find_head(model, FACTS)[1] if "features" in needs else None, wanted=frozenset(needs))
    options_of = {"sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}, "adam": {"lr": 1e-3}}[optimizer]
    made = make_optimizer(optimizer, model.parameters(), options_of)
    run = options.pop("run", None) or Run(RunSettings(accelerator="cpu"), seed=0)
    if scheduler is not None:
        options["scheduler"] = scheduler(made)
    else:
        options.setdefault("schedule", cosine(warmup=0.5))
    fit = Fragile(plan, net, made, run, epochs=EPOCHS, **options)
    fit.stop_at = stop_at
    return fit, plan


def train(ingredients, source=batches, **options):
    fit, plan = build(ingredients, **options)
    with tuned(fit.raw_optimizer, plan.settings):
        torch.manual_seed(2)
        fit(source())
    return fit


def outcome(fit):
    """Everything a fit came to, as far as it may be compared."""
    metrics = [
        {name: value for name, value in report.metrics.items() if name != "images_per_second"}
        for report in fit.history.epochs
    ]
    networks = {f"net.{name}": value for name, value in fit.net.state_dict().items()}
    for name, helper in fit.helpers.items():
        networks |= {f"{name}.{key}": value for key, value in helper.module.state_dict().items()}
    scores = [report.scores for report in fit.history.epochs]
    return networks, (metrics, scores, fit.history.best_epoch, fit.run.step)


def assert_same(fit, expected):
    (networks, told), (known, told_before) = outcome(fit), outcome(expected)
    assert told == told_before
    assert networks.keys() == known.keys()
    for name, value in networks.items():
        assert torch.equal(value, known[name]), name


def interrupted(ingredients, folder, at, every=1, source=batches, **options):
    """Trains up to the middle of step `at`, then goes on in a new fit."""
    with pytest.raises(PowerCut):
        train(ingredients, source, stop_at=at, folder=folder, checkpoint_every=every, **options)
    return train(ingredients, source, folder=folder, checkpoint_every=every, resume=True, **options)


def held_out(net, parts, epoch):
    x, y = data(12)
    net.eval()
    with torch.no_grad():
        right = net(x).logits.argmax(1) == y
    return Scores(float(right.double().mean()), [0.2, 0.6, 0.4][epoch])


# Every ingredient ----------------------------------------------------------------------------------------------


def bases_of(kind):
    """What an ingredient needs beside it: nothing, or one that attacks."""
    for bases in ([], [BASE]):
        try:
            Plan.of([*bases, trial_of(kind)], FACTS)
        except ComposeError:
            continue
        return bases
    raise AssertionError(f"{kind.name} goes with nothing")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_ingredient_goes_on_from_the_middle_of_an_epoch(name, tmp_path):
    ingredients = [*bases_of(KINDS[name]), trial_of(KINDS[name])]
    expected = train(ingredients)
    # Four batches an epoch: the last checkpoint is that of step 6, in the middle of the second epoch.
    assert_same(interrupted(ingredients, tmp_path, at=6, every=2), expected)


COMBINED = {
    "phases": [PCLC(warmup_epochs=2), BASE],
    "averages": [BASE, KINDS["ema"](decay=0.9)],
    "epoch averages": [BASE, KINDS["swa"](start=0.0)],
    "mask network": [KINDS["cat"](eps=0.1, steps=2)],
    "half steps and moved weights": [BASE, KINDS["awp"](), KINDS["dac"]()],
    "one delta for all": [KINDS["free_at"](replays=2, eps=0.1)],
}


@pytest.mark.parametrize("name", COMBINED)
def test_from_any_step(name, tmp_path):
    ingredients = COMBINED[name]
    expected = train(ingredients, validate=held_out)
    for at in (0, 3, 4, 7, 8, 11):
        folder = tmp_path / str(at)
        fit = interrupted(ingredients, folder, at, every=2, validate=held_out)
        assert_same(fit, expected)
        fit.restore_best()
        best = checkpoint.load(folder / "best.pt")
        assert best["epoch"] == expected.history.best_epoch
        assert all(torch.equal(value, best["net"][key]) for key, value in fit.net.module.state_dict().items())


def test_twice_interrupted(tmp_path):
    ingredients = COMBINED["phases"]
    for at in (2, 9):
        with pytest.raises(PowerCut):
            train(ingredients, stop_at=at, folder=tmp_path, checkpoint_every=2, resume=at == 9)
    assert_same(train(ingredients, folder=tmp_path, resume=True), train(ingredients))


# What a state holds --------------------------------------------------------------------------------------------


def noisy(seed=0):
    return nn.Sequential(*tiny_network(seed)[:-1], nn.Dropout(0.3), tiny_network(seed)[-1])


def test_dropout_goes_on_with_the_numbers_that_come_next(tmp_path):
    expected = train([BASE], network=noisy)
    assert_same(interrupted([BASE], tmp_path, at=6, every=2, network=noisy), expected)


def loader():
    x, y = data()
    return StreamBatches(torch.utils.data.DataLoader(list(zip(x, y, strict=True)), BATCH, shuffle=True))


def test_a_loader_that_draws_its_order_draws_the_same(tmp_path):
    expected = train([BASE], loader, network=noisy)
    assert_same(interrupted([BASE], tmp_path, at=6, every=2, source=loader, network=noisy), expected)


def test_an_optimizer_and_a_scheduler_of_the_user(tmp_path):
    options = {"optimizer": "adam", "scheduler": lambda made: torch.optim.lr_scheduler.StepLR(made, 1, 0.5)}
    expected = train([BASE], **options)
    assert_same(interrupted([BASE], tmp_path, at=6, every=2, **options), expected)


def test_global_generators_of_numpy_and_python_go_on(tmp_path):
    import random

    drawn = []

    class Draws(Ingredient):
        name = "draws"

        def apply(self, plan):
            def make(then):
                def update(step):
                    drawn.append((random.random(), float(np.random.rand())))
                    then(step)

                return update

            return plan.wrap(self, make)

    random.seed(3)
    np.random.seed(3)
    train([BASE, Draws()])
    expected, drawn[:] = list(drawn), []
    random.seed(3)
    np.random.seed(3)
    with pytest.raises(PowerCut):
        train([BASE, Draws()], stop_at=6, folder=tmp_path, checkpoint_every=2)
    drawn[6:] = []
    train([BASE, Draws()], folder=tmp_path, resume=True)
    assert drawn == expected


class Patience(Observer):
    """Stops a run some epochs after the first."""

    def __init__(self, fit_of):
        self.seen, self.fit_of = 0, fit_of

    def epoch_end(self, report):
        self.seen += 1
        if self.seen == 2:
            self.fit_of().run.stop = True

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_observers_keep_what_they_counted(tmp_path):
    made = []

    def run(**options):
        fit, _ = build([BASE], observers=[Patience(lambda: made[-1])], **options)
        made.append(fit)
        torch.manual_seed(2)
        fit(batches())
        return fit

    expected = run()
    assert len(expected.history.epochs) == 2
    with pytest.raises(PowerCut):
        run(stop_at=6, folder=tmp_path, checkpoint_every=2)
    assert_same(run(folder=tmp_path, resume=True), expected)
    again = run(folder=tmp_path, resume=True)  # it had come to its end
    assert_same(again, expected)


def test_a_finished_fit_takes_no_step(tmp_path):
    expected = train([BASE, KINDS["ema"](decay=0.9)], folder=tmp_path)
    fit = train([BASE, KINDS["ema"](decay=0.9)], folder=tmp_path, resume=True, stop_at=0)
    assert_same(fit, expected)
    last = checkpoint.load(tmp_path / "last.pt")["net"]
    assert all(torch.equal(value, last[name]) for name, value in fit.net.module.state_dict().items())


def test_a_damaged_best_is_written_again(tmp_path):
    train([BASE], folder=tmp_path, validate=held_out)
    whole = (tmp_path / "best.pt").read_bytes()
    (tmp_path / "best.pt").write_bytes(whole[:-100])
    train([BASE], folder=tmp_path, validate=held_out, resume=True)
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == 2


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train([BASE], folder=tmp_path)
    for ingredients, options in (([PGDAT(eps=0.2, steps=2)], {}), ([BASE], {"optimizer": "adam"})):
        with pytest.raises(CheckpointError, match="those of another training"):
            train(ingredients, folder=tmp_path, resume=True, **options)


def test_a_new_fit_does_not_take_the_place_of_another(tmp_path):
    train([BASE], folder=tmp_path)
    with pytest.raises(CheckpointError, match="holds the checkpoints of a training already; go on with it by resume"):
        train([BASE], folder=tmp_path)


def trainer(at=None, **options):
    """One of ART's classifiers, trained by its trainer; cut off at the end of an epoch where asked."""
    from art.estimators.classification import PyTorchClassifier

    from art_ext.border.art import RecipeTrainer

    class Cuts(Observer):
        def epoch_end(self, report):
            if report.epoch == at:
                raise PowerCut

    torch.manual_seed(5)
    model = noisy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shape = FACTS.input_shape
    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(model, loss, shape, 4, optimizer=optimizer, clip_values=(0, 1), device_type="cpu")
    made = RecipeTrainer(classifier, [BASE], track=False, verbose=False, callbacks=[Cuts()], **options)
    x, y = data()
    made.fit(x.numpy(), y.numpy(), batch_size=BATCH, nb_epochs=3)
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_trainer_of_art_s_goes_on_in_its_folder(tmp_path):
    expected = trainer()
    with pytest.raises(PowerCut):
        trainer(at=2, folder=tmp_path)
    weights = trainer(folder=str(tmp_path), resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    with pytest.raises(ConfigError, match="resume goes on with the fit in a folder; name it"):
        trainer(resume=True)


def test_other_threads_are_said(tmp_path, caplog):
    with pytest.raises(PowerCut):
        train([BASE], stop_at=6, folder=tmp_path, checkpoint_every=2)
    state = Shelf(tmp_path).newest()
    assert (state["epoch"], state["batch"]) == (1, 2)
    Shelf(tmp_path).put(7, {**state, "threads": 3, "versions": {**state["versions"], "torch": "1.0"}})
    train([BASE], folder=tmp_path, resume=True)
    lines = [record.getMessage() for record in caplog.records]
    assert "3 threads computed before and 1 do now; the result may differ in its last bits" in lines
    assert f"torch was 1.0 and is {torch.__version__}; the result may differ in its last bits" in lines


def test_state_that_no_checkpoint_can_hold_is_named(tmp_path):
    class Odd(Patience):
        def state_dict(self):
            return {"how": lambda: 1}

    fit, _ = build([BASE], observers=[Odd(None)], folder=tmp_path, checkpoint_every=1)
    with pytest.raises(ConfigError, match=r"holds a function \(observers.0 Odd.how\)"):
        fit(batches())
    assert list(tmp_path.iterdir()) == []


# Signals -------------------------------------------------------------------------------------------------------


class Calls(Ingredient):
    """Sends this process a signal in the middle of step `at`."""

    name = "calls"
    at: int
    number: int = int(signal.SIGTERM)

    def apply(self, plan):
        def make(then):
            def update(step):
                if step.run.step == self.at:
                    signal.raise_signal(self.number)
                then(step)

            return update

        return plan.wrap(self, make)


def signalled(folder, ingredients, **options):
    signals = Signals()
    run = Run(RunSettings(accelerator="cpu"), 0, signals=signals)
    with signals.heard(), pytest.raises(Stopped) as stopped:
        train(ingredients, folder=folder, run=run, **options)
    return stopped.value


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_keeps_it_and_stops(number, tmp_path):
    expected = train([BASE, Calls(at=-1)])
    stopped = signalled(tmp_path, [BASE, Calls(at=5, number=number)])
    assert stopped.exit_code == 128 + number
    assert str(stopped) == f"stopped by {number.name} after step 6, which is saved in {tmp_path}"
    assert [path.name for path in Shelf(tmp_path).paths()][-1] == "step-00000006.pt"
    fit = train([BASE, Calls(at=-1)], folder=tmp_path, resume=True)
    assert_same(fit, expected)


def test_a_signal_while_an_epoch_is_scored(tmp_path):
    def validate(net, parts, epoch):
        torch.rand(3)
        if epoch == 1 and not resumed:
            signal.raise_signal(signal.SIGTERM)
        return held_out(net, parts, epoch)

    resumed = [True]
    expected = train([BASE], network=noisy, validate=validate)
    resumed = []
    stopped = signalled(tmp_path, [BASE], network=noisy, validate=validate)
    assert "after step 8" in str(stopped)
    resumed = [True]
    assert_same(train([BASE], network=noisy, validate=validate, folder=tmp_path, resume=True), expected)


def test_handlers_are_as_before():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals().heard():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_of_a_step_a_signal_stops_at_once():
    with Signals().heard(), pytest.raises(Stopped, match="stopped by SIGTERM"):
        signal.raise_signal(signal.SIGTERM)


# Cost ----------------------------------------------------------------------------------------------------------


def test_checkpoints_take_no_more_than_their_share(tmp_path, monkeypatch):
    from art_ext.engine import keeper

    clock = [0.0]
    monkeypatch.setattr(keeper.time, "perf_counter", lambda: clock[0])
    put, kept = Shelf.put, []

    def slow(shelf, step, state):
        clock[0] += 3.0
        kept.append((step, clock[0]))
        put(shelf, step, state)

    monkeypatch.setattr(Shelf, "put", slow)

    class Ticks(Ingredient):
        name = "ticks"

        def apply(self, plan):
            def make(then):
                def update(step):
                    clock[0] += 20.0
                    then(step)

                return update

            return plan.wrap(self, make)

    fit, _ = build([BASE, Ticks()], folder=tmp_path)
    fit.epochs = 30
    fit(batches())
    assert clock[0] == pytest.approx(30 * 4 * 20 + 3.0 * len(kept))
    assert 3.0 * (len(kept) - 1) <= keeper.SHARE * clock[0]  # the last one is written in any case
    assert len(kept) >= 10
    assert math.isclose(kept[-1][0], 120)
