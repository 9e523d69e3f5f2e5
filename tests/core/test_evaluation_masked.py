"""Networks that hide their gradients are found out; the same network without the mask is not accused."""


from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from evaluated import TINY, data, evaluation, trained
from torch import nn

from art_ext.api import Confidence, Facts, Ingredient, Keys, Outputs, Paper, Plan
from art_ext.errors import ModelError
from art_ext.evaluation.answers import Answers, looks_like_probabilities, understood
from art_ext.evaluation.subject import Rows
from art_ext.evaluation.verdict import two_lines
from art_ext.parts.detectors import threshold_at
from art_ext_ccat import CCAT
from art_ext_pc_lc import PCLC


class Around(nn.Module):
    """A network with something before it and something after it."""

    def __init__(self, module, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.module, self.before, self.after = module, before, after

    def forward(self, x):
        return self.after(self.module(self.before(x)))


def blurred(x):
    """What a preprocessing outside of autograd does."""
    return (0.8 * x + 0.2 * F.avg_pool2d(x, 3, 1, 1)).detach()


MASKS = {
    "temperature 1e3": (lambda m: Around(m, after=lambda z: 1e3 * z), {"saturated_logits"}),
    "temperature 1e6": (lambda m: Around(m, after=lambda z: 1e6 * z), {"saturated_logits"}),
    "quantised input": (lambda m: Around(m, lambda x: (16 * x).round() / 16), {"zero_gradients"}),
    "detached preprocessing": (lambda m: Around(m, blurred), {"zero_gradients"}),
    "rounded outputs": (lambda m: Around(m, after=lambda z: (10 * z).round() / 10), {"zero_gradients"}),
    "noise": (lambda m: Around(m, lambda x: x + 0.05 * torch.randn_like(x)), {"random_answers"}),
    "dropout": (lambda m: Around(m, lambda x: F.dropout(x, 0.1, True)), {"random_answers"}),
    "batch statistics": (lambda m: Around(m, lambda x: x - x.mean(0) + 0.5), {"batch"}),
}


@pytest.fixture(scope="module")
def module():
    return trained()


def failing(record):
    return {check.name for check in record.checks if check.status == "fail"}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_found_and_named(module, name):
    make, expected = MASKS[name]
    record = evaluation(make(module)).run()
    assert expected <= failing(record)
    assert not record.verdict.trusted
    assert "Do not trust this number, because" in record.verdict.sentence
    for check in record.checks:
        if check.status == "fail":
            assert check.sentence in record.verdict.reasons


def test_a_mask_on_some_of_the_images_is_found(module):
    """Ripples on 3 of 10 images: the black box finds fewer than it misses of the others, and still too many."""
    from art_ext.evaluation.statistics import mcnemar
    from art_ext.evaluation.suites import Suite, Wanted
    from art_ext_attacks import ATTACKS

    def rippled(share):
        def before(x):
            some = (x[:, :, -1:, -1:] < share).to(x.dtype)
            return x + some * 0.01 * torch.sin(400 * x)

        return Around(module, before)

    square = Wanted("square", {"queries": 150}, everywhere=True)
    suite = Suite("tiny", "", (square,), 20, {"steps": 10}, (20, 1), (2, 4))
    asked = {"n": 240, "eps": 0.13, "suite": suite, "attacks": {entry.name: entry for entry in ATTACKS}}
    record = evaluation(rippled(0.3), **asked).run()
    black_box = next(check for check in record.checks if check.name == "black_box")
    assert mcnemar(black_box.evidence["only_first"], black_box.evidence["only_second"]) > 0.01
    assert "black_box" in failing(record)
    assert failing(evaluation(rippled(0.0), **asked).run()) == set()


def test_the_same_network_without_a_mask_is_not_accused(module):
    record = evaluation(module).run()
    assert failing(record) == set()
    assert record.verdict.trusted
    # ten times the logits: gaps of 10 and more, whose gradients float32 still holds
    assert failing(evaluation(Around(module, after=lambda z: 10 * z)).run()) == set()


def test_the_mean_of_random_answers_is_attacked(module):
    make, _ = MASKS["noise"]
    record = evaluation(make(module), n=40).run()
    assert record.attack("pgd20_margin_averaged").attacked > 30
    again = evaluation(make(module), n=40).run()
    assert again.worst_case == record.worst_case  # its random numbers are the evaluation's


def test_images_that_were_trained_on_are_found(module):
    x, _ = data()
    seen = {"training": Rows(torch.cat([x[::4], torch.rand(9, 1, 6, 6)]), torch.zeros(39, dtype=torch.int64))}
    record = evaluation(module, seen=seen).run()
    assert failing(record) == {"seen_data"}
    assert "30 in the training data" in record.verdict.sentence


def test_labels_that_are_noise_are_told(module):
    """A fifth of the labels drawn at random; the same network whose logits are 1000 times as large is as unsure."""
    x, y = data(360, seed=7)
    drawn = torch.Generator().manual_seed(1)
    noise = torch.rand(len(y), generator=drawn) < 0.2
    mixed = torch.where(noise, torch.randint(0, 3, (len(y),), generator=drawn), y)
    short = {"eps": 0.02, "suite": replace(TINY, tries=4, effort=(4, 1), curve=(1, 2))}
    for network in (module, Around(module, after=lambda z: 1e3 * z)):
        record = evaluation(network, rows=(x, mixed), **short).run()
        labels = next(check for check in record.checks if check.name == "labels")
        assert labels.status == "warn"
        assert labels.evidence["wrong"] == round((1 - record.clean.accuracy) * 360)
        assert labels.sentence in two_lines(record)[1] or not record.verdict.trusted
        clean = evaluation(network, rows=(x, y), **short).run()
        assert next(check for check in clean.checks if check.name == "labels").status == "pass"


class Filter(nn.Module):
    def forward(self, x):
        return x


def surgeon(attacks=()):
    """An ingredient that changes the network and says who attacks it."""

    class InputFilter(Ingredient):
        name = "input_filter"
        paper = Paper("A filter", "Nobody", "nowhere", 2026)
        adaptive = attacks

        def apply(self, plan):
            return plan.reshape(self, lambda model, facts: nn.Sequential(Filter(), model))

    return InputFilter()


def test_every_ingredient_needs_someone_who_knows_it(module):
    from art_ext_baselines import PGDAT
    from art_ext_baselines.attacks import ATTACKS

    entries = {entry.name: entry for entry in ATTACKS}

    def adaptive(*ingredients):
        record = evaluation(module, n=20, ingredients=ingredients, attacks=entries).run()
        return next(check for check in record.checks if check.name == "adaptive"), record

    check, record = adaptive(PCLC(), PGDAT(eps=0.06))
    assert check.status == "pass"
    assert record.attack("pgd10_pc_term").of == "pc_lc"
    assert record.attack("pgd_at_attack").family == "informed"
    check, record = adaptive(surgeon())
    assert check.status == "fail"
    assert "adaptive attack missing for input_filter" in record.verdict.sentence
    check, record = adaptive(surgeon(("cw_margin",)))
    assert check.status == "pass"
    assert {"input_filter"} == set(check.evidence["covered"])
    unknown = evaluation(module, n=20).run()
    assert next(check for check in unknown.checks if check.name == "adaptive").status == "not_run"


def knowing(record):
    return next(check for check in record.checks if check.name == "adaptive")


def test_who_knows_an_ingredient_may_be_named_with_options(module):
    from art_ext_baselines.attacks import ATTACKS

    entries = {entry.name: entry for entry in ATTACKS}

    def found(*attacks, **changes):
        suite = replace(TINY, **changes)
        return evaluation(module, n=20, ingredients=(surgeon(attacks),), attacks=entries, suite=suite).run()

    pair = ("pgd", {"objective": "dlr", "steps": 7, "restarts": 3})
    record = found(pair, caps={"steps": 9, "restarts": 2})
    assert knowing(record).evidence["covered"] == {"input_filter": ["pgd7x2_dlr"]}  # the caps lower what is above them
    record = found(pair, dearest=6)
    assert knowing(record).status == "fail"
    assert "leaves out attacks of who knows input_filter: pgd7_dlr (7 passes an image)" in knowing(record).sentence
    assert record.attack("pgd7_dlr") is None
    record = found(("sidestep", {}))
    assert "its attack sidestep did not run: it is not installed" in knowing(record).sentence
    record = found(("pgd", {"stops": 7}))
    assert knowing(record).sentence.endswith("unknown option of pgd 'stops'; did you mean steps or step_size?")


class Silent(Confidence):
    name = "silent"
    adversaries = ()


class Rejecting(Ingredient):
    name = "rejecting"
    paper = Paper("A rejection", "Nobody", "nowhere", 2026)

    def apply(self, plan):
        return plan.fill(self, detectors=(Silent(),))


def test_a_detector_that_names_no_adversary_is_not_passed_over(module):
    held_out = Rows(*data(60, seed=9))
    record = evaluation(module, n=60, ingredients=(Rejecting(),), calibration=held_out).run()
    assert "its detector silent names no adversary" in knowing(record).sentence
    assert failing(record) == {"adaptive"}
    assert record.rejection[0].aim == "evade"  # it is attacked all the same


def test_an_attack_that_ran_on_no_image_is_nobody_s_knowledge(module):
    record = evaluation(module, n=20, eps=0.5, ingredients=(PCLC(warmup_epochs=0),)).run()
    assert record.worst_case.accuracy == 0
    assert record.attack("pgd10_pc_term").attacked == 0
    assert knowing(record).status == "pass"
    assert knowing(record).evidence["covered"] == {}
    assert knowing(record).sentence == "no image was left for the attacks that know pc_lc"
    stands = evaluation(module, n=20, ingredients=(PCLC(warmup_epochs=0),)).run()
    assert "pgd10_pc_term" in knowing(stands).evidence["covered"]["pc_lc"]


@pytest.mark.parametrize(("n", "few"), [(1, "one image is"), (12, "12 images are")])
def test_few_images_cannot_be_trusted_and_the_verdict_says_so(module, n, few):
    record = evaluation(module, n=n).run()
    weak = [check for check in record.checks if check.too_few]
    assert weak
    assert all(check.status == "not_run" and "too few images" in check.sentence for check in weak)
    assert not record.verdict.trusted
    assert f"{few} too few for {len(weak)} of the {len(record.checks)} trust checks" in record.verdict.sentence
    assert not any(check.too_few for check in evaluation(module, n=30).run().checks)


def test_detectors_are_judged_against_evasion_and_denial(module):
    x, y = data(60, seed=9)
    record = evaluation(module, n=60, eps=0.2, ingredients=(CCAT(eps=0.06),), calibration=Rows(x, y)).run()
    assert {(item.aim, item.asked_tpr) for item in record.rejection} == {
        ("evade", 0.99), ("evade", 0.95), ("deny", 0.99), ("deny", 0.95), ("distal", 0.99), ("distal", 0.95)
    }
    for item in record.rejection:
        assert item.detector == Confidence.name
        assert item.forwards > 60
        assert (item.robust_error is None) == (item.aim == "distal")
        assert item.robust_error is None or 0 <= item.robust_error <= 1
        assert (item.denied is None) == (item.aim != "deny")
    knowing = [attack for attack in record.attacks if attack.of == "ccat"]
    assert len(knowing) >= 2
    assert {attack.attacked for attack in knowing} == {60}, "also on what is wrong when clean, which it may keep"
    evaded = record.rejection[0]
    assert evaded.unthresholded >= evaded.robust_error
    assert evaded.auc is not None
    denied = next(item for item in record.rejection if item.aim == "deny")
    assert denied.denied > 0.5  # lowering the confidence of an undefended network is easy
    noise = Keys(0, 0, torch.arange(60)).stream("distal").uniform((1, 6, 6))
    tau = threshold_at(Confidence().score(Outputs(module(x)))[module(x).argmax(1) == y], 0.95)
    unchanged = float((Confidence().score(Outputs(module(noise))) >= tau).double().mean())
    for item in (item for item in record.rejection if item.aim == "distal"):
        assert (item.n, item.n_eligible) == (60, 60)
        assert item.fpr > unchanged + 0.2, "the noise was made to look normal"
    loose, strict = (found.fpr for tpr in (0.99, 0.95) for found in record.rejection
                     if found.aim == "distal" and found.asked_tpr == tpr)  # fmt: skip
    assert loose >= strict
    silent = evaluation(module, n=20, ingredients=(CCAT(eps=0.06),)).run()
    assert silent.rejection == ()
    assert any("held-out images" in note for note in silent.notes)
    assert failing(silent) == {"adaptive"}  # nobody attacked what it rejects by


def test_tuples_mappings_and_probabilities_are_understood(module):
    x, _ = data(8)
    logits = module(x)
    for given, place in (
        (lambda z: (z, z.mean()), 0),
        (lambda z: {"loss": z.mean(), "logits": z}, "logits"),
        (lambda z: [z.mean(1), z], 1),
    ):
        made, notes = understood(Around(module, after=given), x, 3)
        assert torch.equal(made(x), logits)
        assert repr(place) in notes[0]
    made, notes = understood(Around(module, after=lambda z: z.softmax(1)), x, 3)
    assert isinstance(made, Answers)
    torch.testing.assert_close(made(x).softmax(1), logits.softmax(1))
    assert "probabilities" in notes[0]
    assert understood(module, x, 3) == (module, [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z: z.argmax(1), "real numbers of shape"),
        (lambda z: {"a": z.mean()}, "without logits"),
        (lambda z: None, "NoneType without logits"),
        (lambda z: z * float("nan"), "NaN or infinity for 8 of 8"),
        (lambda z: z[:, :2], "2 classes, but the data has 3"),
        (lambda z: z.reshape(2, -1, 3), "real numbers of shape"),
    ],
)
def test_answers_that_cannot_be_used_are_one_line(module, change, said):
    x, _ = data(8)
    with pytest.raises(ModelError, match=said) as error:
        understood(Around(module, after=change), x, 3)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="fails on images of shape 1x9x9"):
        understood(module, torch.rand(2, 1, 9, 9), 3)


def test_probabilities_are_rows_that_sum_to_one():
    assert looks_like_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    assert not looks_like_probabilities(torch.tensor([[0.2, 0.8], [1.1, -0.1]]))
    assert not looks_like_probabilities(torch.tensor([[0.2, 0.9]]))


def saturating():
    """MMC alone on digits: gaps of 200 between logits, as its centres lie."""
    from art_ext_mmc import MMC

    return (MMC(center_norm=10, dim=64),), 0.02, 20


HONEST = {"pgd_at": 0.1, "trades": 0.1}


def digits_network(ingredients, seed, rate, epochs=15):
    from art_ext.border.timm import build_model
    from art_ext.data.batches import ArrayBatches, split_off
    from art_ext.data.entry import DatasetOptions
    from art_ext.data.onboard import digits
    from art_ext.engine.fit import Fit
    from art_ext.engine.net import Net
    from art_ext.engine.optim import make_optimizer, make_schedule
    from art_ext.engine.run import Run, RunSettings

    found, facts = digits(DatasetOptions()), Facts(10, (1, 8, 8))
    plan = Plan.of(ingredients, facts)
    model = plan.operate(build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=seed), seed)
    run = Run(RunSettings(accelerator="cpu", threads=1), seed)
    torch.manual_seed(seed)
    rows, _ = split_off(len(found.train), found.train.y, 0.2, seed)
    training = found.train.at(rows)
    optimizer = make_optimizer("sgd", model.parameters(), {"lr": rate, "momentum": 0.9, "weight_decay": 5e-4})
    fit = Fit(plan, Net(model), optimizer, run, epochs=epochs, schedule=make_schedule("one_cycle", {}))
    fit(ArrayBatches(training.x, training.y, 128, seed, run.device))
    return model.eval(), plan, found.test


def on_digits(model, plan, test, known=True):
    from art_ext.engine.net import Net
    from art_ext.evaluation.evaluation import Evaluation, Options
    from art_ext.evaluation.record import ModelInfo
    from art_ext.evaluation.subject import Subject
    from art_ext.evaluation.suites import QUICK
    from art_ext.evaluation.threat import Threat
    from art_ext_attacks import ATTACKS

    subject = Subject(Net(model), plan, ModelInfo("digits", "sha256:0", plan.used), known)
    entries = {entry.name: entry for entry in ATTACKS}
    return Evaluation(
        subject, Rows(test.x, test.y), Threat("linf", 0.15), Options(QUICK), attacks=entries
    ).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("method", HONEST)
def test_honest_models_on_digits_are_not_accused(method, seed):
    from art_ext_baselines import PGDAT, TRADES

    ingredient = {"pgd_at": PGDAT(eps=0.15, steps=5), "trades": TRADES(beta=6.0, eps=0.15, steps=5)}[method]
    record = on_digits(*digits_network((ingredient,), seed, HONEST[method]))
    assert failing(record) == set(), record.verdict.sentence
    assert record.worst_case.accuracy > 0.5


@pytest.mark.slow
def test_mmc_alone_is_caught_by_its_saturated_logits():
    ingredients, rate, epochs = saturating()
    record = on_digits(*digits_network(ingredients, 0, rate, epochs))
    assert {"saturated_logits", "losses"} <= failing(record)
    assert record.attack("pgd20").accuracy > record.worst_case.accuracy + 0.5
