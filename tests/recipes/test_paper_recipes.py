"""The papers' configurations: each is planned as for its data, and trains two steps on files in that data's format."""

from __future__ import annotations

import gzip
import pickle
import re
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from art_ext.engine.fit import Fit
from art_ext.engine.optim import make_schedule
from art_ext.engine.run import Run
from art_ext.entries import EvaluationContext
from art_ext.host.job import distinct, find_threat, prepare
from art_ext.host.recipe import load_recipe, recipe_from
from art_ext.host.recipe_files import known_recipes
from art_ext.host.training import build
from art_ext.parts.attacks import Walk
from art_ext.types import Facts

ROOT = Path(__file__).parents[2]
PAPERS = sorted((ROOT / "recipes" / "papers").glob("*.yaml"))
RNG = np.random.default_rng(0)
N = 20
SHAPES = {
    **dict.fromkeys(("cifar10", "svhn"), Facts(10, (3, 32, 32))),
    **dict.fromkeys(("mnist", "kmnist", "fashion_mnist"), Facts(10, (1, 28, 28))),
    "cifar100": Facts(100, (3, 32, 32)),
    "tiny_imagenet": Facts(200, (3, 64, 64)),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*members have no:UserWarning")


def _bytes(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _cifar(folder, files, label, classes, extra=None):
    folder.mkdir()
    for file in files:
        content = {"data": _bytes(N, 3072), label: [i % classes for i in range(N)]}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core."))
    for file, content in (extra or {}).items():
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))


def _cifar10(root):
    _cifar(root / "cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "labels", 10)


def _cifar100(root):
    names = {"fine_label_names": [f"class {i}" for i in range(100)]}
    _cifar(root / "cifar-100-python", ["train", "test"], "fine_labels", 100, {"meta": names})


def _svhn(root):
    from scipy.io import savemat

    labels = (np.arange(N, dtype=np.uint8) % 10 + 1)[:, None]
    for part in ("train", "test"):
        savemat(root / f"{part}_32x32.mat", {"X": _bytes(32, 32, 3, N), "y": labels})


def _idx(root):
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", _bytes(N, 28, 28)), ("labels-idx1", np.arange(N, dtype=np.uint8) % 10)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def _tiny_imagenet(root):
    folder = root / "tiny-imagenet-200"
    wnids = [f"n{i:08}" for i in range(10)]
    (folder / "val" / "images").mkdir(parents=True)
    for wnid in wnids:
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(_bytes(64, 64, 3)).save(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        Image.fromarray(_bytes(64, 64, 3)).save(folder / "val" / "images" / f"val_{wnid}.JPEG")
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (folder / "words.txt").write_text("".join(f"{wnid}\tthing {wnid}\n" for wnid in wnids))
    lines = [f"val_{wnid}.JPEG\t{wnid}\t0\t0\t9\t9\n" for wnid in wnids]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


WRITERS = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "mnist": _idx,
    "kmnist": _idx,
    "fashion_mnist": _idx,
    "tiny_imagenet": _tiny_imagenet,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of tiny files for each data set, in the format it is published in."""
    made = {}
    for name, write in WRITERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        write(made[name])
    return made


def test_every_data_set_of_the_papers_has_a_recipe_and_is_installed():
    assert {load_recipe(path).data.name for path in PAPERS} == set(WRITERS)
    assert {f"papers/{path.stem}" for path in PAPERS} <= set(known_recipes())


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_it_is_planned_as_for_the_real_data(path):
    text = path.read_text()
    assert text.startswith("schema: 1  ")
    assert "# Aims at" in text or "# No figures" in text, "the head says what the recipe aims at"
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    facts = SHAPES[recipe.data.name]
    plan = recipe.plan(facts)
    train = recipe.train.tuned(plan.settings)
    assert plan.warmup_epochs() < train.epochs
    assert find_threat(recipe, plan).eps > 0
    norm, rejecting = recipe.threat.norm if recipe.threat else "linf", plan.compose().detectors
    context = EvaluationContext(plan, norm, 0.03, facts.clip, detectors=rejecting)
    built = [named for entry, options in recipe.attacks() for named in entry.build(options, context)]
    assert len(distinct(built)) == len(built) > 0, "an evaluation is asked for, and nothing twice"


ENTRIES = {
    "AutoAttack": "autoattack",
    "FGSM": "fgsm",
    "BIM": "bim",
    "MIM": "mim",
    "ILCM": "ilcm",
    "JSMA": "jsma",
    "SPSA": "spsa",
    "Square": "square",
    "L0": "pgd_conf",
    "frames": "frames",
}
"""What papers call attacks, and what a recipe's `evaluate:` calls them."""


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_attack_that_the_head_has_a_figure_for_is_run(path):
    _, aims, head = path.read_text().partition("\nname: ")[0].partition("# Aims at")
    if not aims:
        return
    entries = {entry.name for entry, _ in load_recipe(path).attacks()}
    for word, entry in ENTRIES.items():
        if f"article's {word}" not in head:
            assert word not in head or entry in entries, f"{word} is in the head, and {entry} is not run"
    steps = set(re.findall(r"PGD-(\d+)", head))
    ran = {str(getattr(options, "steps", "")) for _, options in load_recipe(path).attacks()}
    assert steps <= ran
    assert ("CW" not in re.split(r"\W", head)) or entries & {"cw_margin", "cw_l2"}
    assert "C&W-hc" not in head or "cw_hc" in entries
    assert "C&W" not in head or entries & {"cw_l2", "cw_hc"}


COLUMNS = {
    r"(DAC's|the talk's) table": "clean PGD-20 PGD-100 CW AutoAttack",
    r"\((CAT's )?tables 2 to 4|\(table 7": "clean FGSM PGD-20 PGD-100 CW",
    r"\(tables 1 and 3, %": "clean FGSM BIM PGD MIM CW SPSA",
    r"Li et al., AAAI 2021, table 2": "FGSM BIM PGD MIM C&W",
    r"\(table 2, %": "FGSM BIM PGD MIM C&W",
    r"\(table 4, %": "clean PGD MIM SPSA",
    r"\(table 5, %": "BIM PGD MIM C&W SPSA",
    r"AUC table": "FGSM BIM ILCM JSMA C&W C&W-hc",
}
"""The columns (or rows) of the tables that heads name, but those on a substitute network."""


@pytest.mark.parametrize("table", COLUMNS)
def test_a_head_has_a_figure_for_every_column_of_its_table(table):
    heads = [path.read_text().partition("\nname: ")[0].partition("# Aims at")[2] for path in PAPERS]
    named = [head for head in heads if re.search(table, head)]
    assert named
    for head in named:
        for column in COLUMNS[table].split():
            figure = rf"(?<![-&\w]){column}( at [\d.]+)? [\d/]|/ {column}[,;]"
            assert re.search(figure, head), f"{head.splitlines()[0]}: no {column}"


def test_what_a_head_has_at_several_radii_is_run_at_each_of_them():
    several = 0
    for path in PAPERS:
        head = path.read_text().partition("\nname: ")[0].partition("# Aims at")[2]
        recipe = load_recipe(path)
        usual = recipe.threat.eps if recipe.threat else None
        ran = {(entry.name, getattr(options, "eps", None) or usual) for entry, options in recipe.attacks()}
        asked = {(name.lower(), float(eps)) for name, eps in re.findall(r"(\w+) at ([\d.]+) \d", head)}
        asked |= {(name.lower(), float(eps)) for name, eps in re.findall(r"(\w+) [\d.]+ at (0[\d.]+\d)", head)}
        radii = re.search(r"%, at ((?:[\d.]+ / )+[\d.]+)", head)
        if radii:
            several += 1
            figures = re.findall(r"(FGSM|BIM|PGD|MIM) ((?:[\d.]+ / )+[\d.]+)", head)
            assert len(figures) >= 2
            for name, row in figures:
                assert row.count("/") == radii[1].count("/"), f"{path.stem}: a figure of {name} for each radius"
                asked |= {(name.lower(), float(eps)) for eps in radii[1].split(" / ")}
        assert asked <= ran, path.stem
    assert several >= 8


CHANGE = r"(?:\buse=\[.*?\}\]|\b[a-z_]+(?:\.\w+)+=[\w./-]*\w)"


def test_what_heads_say_to_set_can_be_set():
    found = 0
    for path in PAPERS:
        head = path.read_text().partition("\nname: ")[0].replace("\n#", "")
        for together in re.findall(rf"{CHANGE}(?:(?: and)? {CHANGE})*", head):
            changes = re.findall(CHANGE, together)
            recipe = load_recipe(path, changes)
            facts = SHAPES[recipe.data.name]
            plan = recipe.plan(facts)
            threat = find_threat(recipe, plan)
            rejecting = plan.compose().detectors
            context = EvaluationContext(plan, threat.norm, threat.eps, facts.clip, detectors=rejecting)
            assert all(entry.build(options, context) for entry, options in recipe.attacks())
            assert recipe.resolved() != load_recipe(path).resolved(), f"{path.stem}: {changes} change nothing"
            found += 1
    assert found > 20


def test_mart_on_resnet_18_is_the_paper_s_with_what_the_head_says_to_set():
    """Both of its networks have the drops at 75, 90 and 100; the larger one's 90 epochs end before the second."""
    path = ROOT / "recipes" / "papers" / "mart_cifar10.yaml"
    said = re.search(rf"ResNet-18: ((?:{CHANGE} ?)+)", path.read_text().replace("\n#", ""))
    recipe = load_recipe(path, said[1].split())
    assert (recipe.model.timm, recipe.use[0].options["beta"], recipe.train.epochs) == ("resnet18_cifar", 5, 120)
    assert recipe.train.optimizer == ("sgd", {"lr": 0.01, "momentum": 0.9, "weight_decay": 3.5e-3})
    factor = make_schedule(*recipe.train.schedule)
    rates = [factor(epoch, 120) for epoch in (0, 74.9, 75, 89.9, 90, 99.9, 100, 119)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_attack_can_reach_the_surface_of_its_ball(path):
    recipe = load_recipe(path)
    facts = SHAPES[recipe.data.name]
    plan = recipe.plan(facts)
    threat = find_threat(recipe, plan)
    for entry, options in recipe.attacks():
        if getattr(options, "step_size", None):
            context = EvaluationContext(plan, threat.norm, threat.eps, facts.clip)
            for name, attack in entry.build(options, context):
                assert options.steps * options.step_size > 0.999 * attack.norm.largest, name


def test_what_heads_say_of_radii_and_norms_is_run():
    def balls(name):
        recipe = load_recipe(ROOT / "recipes" / "papers" / f"{name}.yaml")
        return {
            (entry.name, getattr(options, "norm", None), getattr(options, "eps", None))
            for entry, options in recipe.attacks()
        }

    confident = {("pgd_conf", None, 0.06), ("pgd_conf", "l2", 1.0), ("pgd_conf", "l1", 18), ("pgd_conf", "l0", 10)}
    assert confident <= balls("ccat_cifar10")
    assert {("center_pgd", None, None), ("center_pgd", None, 16 / 255)} <= balls("mmc_cifar10")


def test_a_radius_that_a_head_says_to_set_takes_the_steps_of_the_training_along():
    """CAT's code has steps of eps / 20 on MNIST, at 0.4 as at 0.3."""
    for eps in (0.4, 0.3):
        plan = load_recipe("papers/cat_mnist", [f"cat.eps={eps}"]).plan(SHAPES["mnist"])
        attack = plan.compose().attack.attack
        assert Walk.of(attack, torch.zeros(1, 1, 28, 28), eps, None).size == pytest.approx(eps / 20)


def _small(recipe):
    """A small network in place of the paper's; an ensemble stays one."""
    scale = "" if recipe.model.mean is None else f", mean: {list(recipe.model.mean)}, std: {list(recipe.model.std)}"
    if recipe.model.name == "ensemble":
        return f"model={{name: ensemble, of: small_cnn, members: 3{scale}}}"
    return f"model={{timm: small_cnn{scale}}}"


class TwoSteps:
    """The first two batches of an epoch."""

    per_epoch = 2

    def __init__(self, batches):
        self.batches, self.batch_size = batches, batches.batch_size

    def epoch(self, *where):
        return islice(self.batches.epoch(*where), 2)


NETWORKS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if "timm: wrn" in path.read_text() else [])
    for path in PAPERS
]


@pytest.mark.parametrize("path", NETWORKS)
def test_its_own_network_is_built_as_said_and_learns_from_two_images(path, folders):
    name = load_recipe(path).data.name
    recipe = load_recipe(path, [f"data.root={folders[name]}", "train.held_out=0.2", "train.batch_size=2"])
    job = prepare(recipe)
    run = Run(job.settings, job.train.seed)
    plan = job.plan(job.ingredients)
    network, net = build(job, plan, run)
    batch = next(iter(job.batches(run.device).epoch(0)))
    out, parts = net(batch.x), plan.compose()
    assert out.logits.shape == (2, job.facts.n_classes)
    target = parts.target(batch.y, job.facts.n_classes, torch.zeros_like(batch.x))
    parts.criterion(out, target).mean().backward()
    gradients = [weight.grad for weight in network.parameters() if weight.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > len(gradients) / 2
    _is_as_said(network, recipe, job.facts.n_classes)


def _is_as_said(network, recipe, n_classes):
    """The layers are those that the recipe's `model:` and its surgery name."""
    given, used = recipe.model.options, {named.name: named.options for named in recipe.use}
    convs, dense, norms, relus, leaky = (
        [part for part in network.modules() if isinstance(part, kind)]
        for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU)
    )
    assert {part.negative_slope for part in leaky} == ({0.1} if "leaky_relu" in used else set())
    assert bool(relus) == ("leaky_relu" not in used)
    assert {part.eps for part in norms} <= {given.get("bn_eps", 1e-5)}
    width = next((options["dim"] for options in used.values() if "dim" in options), n_classes)
    assert [part.out_features for part in dense].count(width) == given.get("members", 1)
    wide = [channels.out_channels for channels in convs if channels.kernel_size != (1, 1)]
    depths, widths = given.get("depths"), given.get("widths")
    if layers := re.fullmatch(r"wrn_(\d+)_(\d+)", recipe.model.timm or ""):
        depth, factor = map(int, layers.groups())
        depths, widths = [(depth - 4) // 6] * 3, [16 * factor, 32 * factor, 64 * factor]
    if depths:
        assert len(wide) == 1 + 2 * sum(depths)
    if widths:
        assert [width for width, _ in groupby(wide[1:])] == list(widths)
    assert wide[0] == given.get("stem", given.get("width", wide[0]))


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_two_steps_on_real_files_move_the_weights(path, folders):
    paper = load_recipe(path)
    name = paper.data.name
    overrides = [_small(paper), f"data.root={folders[name]}"]
    overrides += ["train.epochs=1", "train.batch_size=8", "train.held_out=0.2"]
    for used in paper.use:
        quick = {"warmup_epochs": 0, "steps": 2, "milestones": []}
        overrides += [f"{used.name}.{option}={value}" for option, value in quick.items() if option in used.options]
    recipe = load_recipe(path, overrides)
    job = prepare(recipe)
    assert job.facts.input_shape == SHAPES[name].input_shape
    plan = job.plan(job.ingredients)
    assert set(plan.used) == {used.name for used in paper.use}
    run = Run(job.settings, job.train.seed)
    _, net = build(job, plan, run)
    before = {key: value.detach().clone() for key, value in net.named_parameters()}
    fit = Fit(plan, net, job.optimizer(net.module), run, epochs=1, schedule=job.schedule())
    fit(TwoSteps(job.batches(run.device)))
    assert run.step == 2
    moved = [key for key, value in net.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > len(before) / 2
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_a_step_of_eps_is_written_and_read_again():
    recipe = load_recipe(ROOT / "recipes" / "digits" / "pgd_at.yaml", ["pgd_at.step_size=eps/10"])
    resolved = recipe.resolved()
    assert resolved["use"][0]["pgd_at"]["step_size"] == "0.1 eps"
    assert recipe_from(resolved, "again").resolved() == resolved
