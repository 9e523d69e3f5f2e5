"""Models that people bring: every source opens to the same network, with the surgery of its method repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from art_ext.border.mlflow_models import save_model
from art_ext.border.timm import build_model
from art_ext.border.weights import ARCHITECTURE, WEIGHTS, fit_weights
from art_ext.engine import checkpoint
from art_ext.entries import ModelEntry
from art_ext.errors import ArtExtError, ConfigError, ModelError
from art_ext.host.beside import describe_network, fit_detectors, keep_detectors, keep_network
from art_ext.host.hookspecs import hookimpl
from art_ext.host.job import prepare
from art_ext.host.manager import PluginManager, default_manager
from art_ext.host.models import open_model
from art_ext.host.recipe import load_recipe
from art_ext.types import Facts

X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FACTS = Facts(10, (1, 8, 8))


def catalogue():
    return default_manager().catalogue


def opened(source, **options):
    return open_model(str(source), catalogue=catalogue(), **options)


def job_of(name: str, *overrides: str):
    return prepare(load_recipe(name, overrides))


def untrained(job) -> nn.Module:
    return job.model(job.plan(job.ingredients)).eval()


def run_folder(folder: Path, job, model: nn.Module, earlier=()) -> Path:
    """What a run leaves of a model: its weights, recipe and architecture."""
    role = folder / "hardened"
    role.mkdir(parents=True)
    checkpoint.save(role / "best.pt", {"net": model.state_dict(), "epoch": 1, "step": 9})
    (folder / "recipe.json").write_text(json.dumps(job.resolved))
    keep_network(role, describe_network(model, job.facts, job.resolved, earlier))
    return folder


# --------------------------------------------------------------------- surgery is repeated


@pytest.mark.parametrize("name", ["digits/mmc", "digits/rce_pgd_at", "digits/adp", "digits/pgd_at"])
def test_a_run_s_model_opens_again_from_each_of_its_places(tmp_path, name):
    job = job_of(name)
    model = untrained(job)
    folder = run_folder(tmp_path / "run", job, model)
    for source in (folder, folder / "hardened", folder / "hardened" / "best.pt"):
        found = opened(source)
        assert torch.equal(found.module(X), model(X))
        assert not found.module.training
        assert [item.name for item in found.ingredients] == [item.name for item in job.ingredients]
        assert found.facts == job.facts
        assert found.recipe == job.resolved
        assert found.digest.startswith("sha256:")
    # what a folder lacks, its recipe tells
    (folder / "hardened" / ARCHITECTURE).unlink()
    assert torch.equal(opened(folder).module(X), model(X))


def test_other_activations_come_back_with_their_slopes(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "schema: 1\nuse: [activation: {to: leaky_relu, parameter: 0.4}, pgd_at: {eps: 0.1}]\n"
        "model: {timm: small_cnn}\ndata: {name: digits}\n"
    )
    job = prepare(load_recipe(recipe))
    model = untrained(job)
    folder = run_folder(tmp_path / "run", job, model)
    assert torch.equal(opened(folder).module(X), model(X))
    # the weights alone fit the plain network too, and mean something else there: only the layers tell
    record = json.loads((folder / "hardened" / ARCHITECTURE).read_text())
    (folder / "hardened" / ARCHITECTURE).write_text(json.dumps(record | {"recipe": {}}))
    (folder / "recipe.json").unlink()
    with pytest.raises(ModelError, match="other layers"):
        opened(folder)


def test_the_undefended_model_of_a_run(tmp_path):
    job = job_of("digits/mmc")
    folder = run_folder(tmp_path / "run", job, untrained(job))
    plain = job.model(job.plan(())).eval()
    (folder / "undefended").mkdir()
    checkpoint.save(folder / "undefended" / "best.pt", {"net": plain.state_dict(), "epoch": 1})
    for source, options in ((folder, {"undefended": True}), (folder / "undefended", {})):
        found = opened(source, **options)
        assert found.ingredients == ()
        assert found.recipe["use"] == []
        assert torch.equal(found.module(X), plain(X))


def test_a_damaged_checkpoint_is_not_opened(tmp_path):
    job = job_of("digits/pgd_at")
    folder = run_folder(tmp_path / "run", job, untrained(job))
    path = folder / "hardened" / "best.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        opened(folder)


def test_detectors_come_back_with_thresholds_and_banks(tmp_path):
    job = job_of("digits/rce_pgd_at", "rce.detectors=[k_density, confidence]")
    plan = job.plan(job.ingredients)
    net = job.net(plan)
    folder = run_folder(tmp_path / "run", job, net.module.eval())
    states = fit_detectors(plan, net, job.training, job.held_out, torch.device("cpu"))
    keep_detectors(folder / "hardened", states)
    found = opened(folder)
    again = {detector.name: detector for detector in found.plan(catalogue()).compose().detectors}
    assert len(again) == 2
    with net.offering_features(), torch.no_grad():
        out = net(X)
    for detector in plan.compose().detectors:
        assert again[detector.name].threshold == detector.threshold is not None
        assert torch.equal(again[detector.name].score(out), detector.score(out))


# ------------------------------------------------------------------------- files of weights


def wrapped(state: dict, how: str) -> object:
    return {
        "plain": state,
        "nested": {"state_dict": state, "epoch": 3, "optimizer": {"lr": [1.0]}},
        "net": {"net": state, "acc": 94.1},
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "compiled": {"model": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
        "lightning": {"state_dict": {f"model.{name}": value for name, value in state.items()}},
        "old": {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
    }[how]


@pytest.mark.parametrize("how", ["plain", "nested", "net", "parallel", "compiled", "lightning", "old"])
def test_state_dicts_however_they_were_wrapped(tmp_path, how):
    model = build_model("resnet18_cifar", num_classes=10, input_shape=(1, 8, 8), seed=3).eval()
    torch.save(wrapped(model.state_dict(), how), tmp_path / "w.pt")
    recipe = load_recipe("digits/standard", ["model.timm=resnet18_cifar"])
    found = opened(tmp_path / "w.pt", recipe=recipe)
    assert torch.equal(found.module(X), model(X))
    assert found.digest == opened(tmp_path / "w.pt", recipe=recipe).digest


def test_the_same_weights_have_the_same_digest_in_every_format(tmp_path):
    job = job_of("digits/pgd_at")
    model = untrained(job)
    folder = run_folder(tmp_path / "run", job, model)
    save_model(tmp_path / "logged", model, None, X.numpy(), job.resolved)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    sources = [(folder, {}), (tmp_path / "logged", {}), (tmp_path / "w.safetensors", {"recipe": job.recipe})]
    assert len({opened(source, **options).digest for source, options in sources}) == 1


def test_weights_of_a_bare_network_get_the_recipe_s_standardisation(tmp_path):
    bare = build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=3).eval()
    save_file(bare.state_dict(), tmp_path / "w.safetensors")
    recipe = load_recipe("digits/standard", ["model.mean=[0.3]", "model.std=[0.5]"])
    assert torch.equal(opened(tmp_path / "w.safetensors", recipe=recipe).module(X), bare((X - 0.3) / 0.5))


def other(state: dict, what: str) -> dict:
    if what == "head":
        return state | {"fc.weight": torch.zeros(7, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(7)}
    if what == "colour":
        first = next(iter(state))
        return state | {first: torch.zeros(16, 3, 3, 3)}
    if what == "surgery":
        return {name.replace("fc.", "fc.head."): value for name, value in state.items()}
    if what == "members":
        return {f"members.0.{name}": value for name, value in state.items()}
    return {f"encoder.{i}": value for i, value in enumerate(state.values())}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("head", r"fc.weight is \(7, .*another number of classes"),
        ("colour", "another number of channels"),
        ("surgery", "missing fc.weight and 1 more; left over fc.head.* and 1 more; .* a method has changed"),
        ("members", "one of the two is an ensemble"),
        ("stranger", "it is another network"),
    ],
)
def test_weights_that_do_not_fit_say_why_in_one_line(tmp_path, what, said):
    state = build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=3).state_dict()
    save_file(other(state, what), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=said) as raised:
        opened(tmp_path / "w.safetensors", recipe=load_recipe("digits/standard"))
    assert "\n" not in str(raised.value)
    assert "w.safetensors" in str(raised.value)


def test_weights_that_nothing_describes_ask_for_a_recipe(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="--recipe"):
        opened(tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="--recipe"):
        opened(tmp_path / "w.safetensors", facts=FACTS)


@pytest.mark.parametrize(
    "source",
    ["nowhere", "models:/", "models:/a/b/c", "runs:/", "timm:", "timm:resnet18x", "plugin:x", "s3://a:secretpw@h"],
)
def test_a_source_that_is_none_is_one_line_without_secrets(tmp_path, monkeypatch, store, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtExtError) as raised:
        opened(source, facts=FACTS, tracking_uri=store.uri)
    assert str(raised.value).isprintable()
    assert "secretpw" not in str(raised.value)


def test_a_model_of_other_data_is_refused(tmp_path):
    job = job_of("digits/pgd_at")
    folder = run_folder(tmp_path / "run", job, untrained(job))
    with pytest.raises(ModelError, match="has classes 10, but 100 are asked for"):
        opened(folder, facts=Facts(100, (1, 8, 8)))


def test_timm_s_weights_are_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="timm has no weights of small_cnn"):
        opened("timm:small_cnn")
    with pytest.raises(ModelError, match="not on this machine"):
        opened("timm:vgg11.tv_in1k")


# ----------------------------------------------------------------------------------- plugins


class Tiny(nn.Sequential):
    def __init__(self, n_classes: int, bias: float) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, n_classes))
        nn.init.constant_(self[1].bias, bias)


def test_a_plugin_s_network_comes_with_its_weights():
    class Plugin:
        @hookimpl
        def art_ext_models(self):
            return [ModelEntry("tiny", "a line", lambda options, facts: Tiny(facts.n_classes, 0.5))]

    offered = PluginManager.isolated({"mine": Plugin()}).catalogue
    found = open_model("plugin:tiny", catalogue=offered, facts=Facts(4, (1, 8, 8)))
    assert found.module(torch.zeros(1, 1, 8, 8)).shape == (1, 4)
    assert float(found.module[1].bias[0]) == 0.5
    with pytest.raises(ConfigError, match="unknown model 'tinny'; did you mean tiny"):
        open_model("plugin:tinny", catalogue=offered, facts=FACTS)


# ------------------------------------------------------------------------- trained further


def test_a_recipe_trains_given_weights_further(tmp_path):
    first = job_of("digits/mmc")
    model = untrained(first)
    folder = run_folder(tmp_path / "one", first, model)
    second = job_of("digits/pgd_at", f"model.from={folder}", "model.timm=null")
    assert second.baseline == "given"
    assert second.takes_as_it_is(second.plan(()))
    assert not second.takes_as_it_is(second.plan(second.ingredients))
    start = untrained(second)
    assert torch.equal(start(X), model(X))
    # and what comes of it opens again: both methods' surgery, in order
    again = opened(run_folder(tmp_path / "two", second, start, second.given.earlier))
    assert torch.equal(again.module(X), model(X))
    assert [item.name for item in again.ingredients] == ["pgd_at"]


def test_another_number_of_classes_gets_a_new_head_and_says_so(tmp_path):
    state = build_model("small_cnn", num_classes=7, input_shape=(1, 8, 8), seed=3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    job = job_of("digits/pgd_at", f"model.from={tmp_path / 'w.safetensors'}")
    assert job.baseline == "train"  # an untrained head is no baseline
    assert "its head is new" in job.describe()[-2]
    start = untrained(job).state_dict()
    assert start["fc.weight"].shape[0] == 10
    kept = [name for name in state if not name.startswith("fc.")]
    assert kept
    assert all(torch.equal(start[name], state[name]) for name in kept)
    assert torch.equal(start["fc.weight"], untrained(job).state_dict()["fc.weight"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.baseline=given"], "train.baseline is given, but no model is"),
        (["model.from=nowhere"], "there is no model 'nowhere'"),
        (["model.from=http://u:secretpw@host/x"], "holds a password or a token"),
        (["model.timm=null"], "give either timm: NAME"),
        (["model.checkpoint_path=x.pth"], "checkpoint_path is no option of a recipe"),
        (["model.from={run}", "model.timm=resnet18_cifar"], "model.timm is resnet18_cifar, but .* has small_cnn"),
        (["model.from={run}", "data.name=digits_on_photos"], "of another size|number of channels"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(tmp_path, overrides, said):
    job = job_of("digits/pgd_at")
    folder = run_folder(tmp_path / "run", job, untrained(job))
    with pytest.raises(ArtExtError, match=said) as raised:
        job_of("digits/pgd_at", *(text.format(run=folder) for text in overrides))
    assert "\n" not in str(raised.value)
    assert "secretpw" not in str(raised.value)


# ------------------------------------------------------------------------------------ MLflow


def test_a_logged_model_opens_with_its_surgery_and_its_alias(tmp_path, store):
    from mlflow import MlflowClient

    job = job_of("digits/mmc")
    model = untrained(job)
    place = tmp_path / "logged"
    network = describe_network(model, job.facts, job.resolved)
    save_model(place, model, network.architecture, X.numpy(), job.resolved, {"confidence/threshold": torch.tensor(0.5)})
    client = MlflowClient(tracking_uri=store.uri)
    run = client.create_run(client.create_experiment("models", store.artifacts))
    client.log_artifacts(run.info.run_id, str(place), "model")
    client.create_registered_model("digits")
    version = client.create_model_version("digits", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("digits", "champion", version.version)
    for source in ("models:/digits@champion", f"models:/digits/{version.version}", f"runs:/{run.info.run_id}/model"):
        found = opened(source, tracking_uri=store.uri)
        assert torch.equal(found.module(X), model(X))
        assert [item.name for item in found.ingredients] == ["mmc", "weight_decay"]
        assert found.state["detectors"]["confidence"]["threshold"] == 0.5
        assert found.source == source
    with pytest.raises(ModelError, match="cannot download models:/digits@nobody"):
        opened("models:/digits@nobody", tracking_uri=store.uri)


def test_a_given_model_of_the_registry_is_looked_up_where_the_recipe_tracks(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(ModelError, match=r"cannot download models:/nobody@champion .*not found"):
        job_of("digits/pgd_at", "model.from=models:/nobody@champion", f"track.uri={store.uri}")


def test_a_head_may_keep_its_own_weights_only_where_shapes_differ_there():
    model = build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=3)
    state = model.state_dict() | {"fc.bias": torch.zeros(3)}
    assert fit_weights(model, state, "x", head="fc")
    assert not fit_weights(model, model.state_dict(), "x", head="fc")
    with pytest.raises(ModelError, match="do not fit"):
        fit_weights(model, state, "x")
    assert WEIGHTS == "weights.safetensors"
