"""Models, data and recipes made by an enemy: none of them runs code, or reads or writes outside of its folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from art_ext.border.timm import architecture, build_model
from art_ext.border.weights import ARCHITECTURE, WEIGHTS, Network
from art_ext.data.datasets import BUILTIN
from art_ext.engine import checkpoint
from art_ext.errors import ArtExtError, ConfigError, ModelError
from art_ext.host.manager import PluginManager, default_manager
from art_ext.host.models import open_model
from art_ext.host.recipe import load_recipe
from art_ext.types import Facts

FACTS = Facts(10, (1, 8, 8))
ENTRIES = {entry.name: entry for entry in BUILTIN}
RECIPE = "schema: 1\nuse: [pgd_at: {eps: 0.1}]\nmodel: {timm: small_cnn}\ndata: {name: digits}\n"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


class Whole(nn.Linear):
    """A network whose pickle runs code."""

    def __reduce__(self):
        return os.mkdir, (os.environ["MARK"],)


def network() -> nn.Module:
    return build_model("small_cnn", num_classes=10, input_shape=FACTS.input_shape, seed=0)


def logged(folder: Path, *, card: str | None = None, change: dict | None = None) -> Path:
    """A model's folder as ours, with another MLmodel or an architecture that was tampered with."""
    folder.mkdir(parents=True)
    model = network()
    save_file(model.state_dict(), folder / WEIGHTS)
    record = Network(architecture(model), FACTS).as_record() | (change or {})
    (folder / ARCHITECTURE).write_text(json.dumps(record))
    ours = f"flavors:\n  art_ext: {{weights: {WEIGHTS}, architecture: {ARCHITECTURE}}}\n"
    (folder / "MLmodel").write_text(ours if card is None else card)
    return folder


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def opened(source: Path | str, **options) -> None:
    open_model(str(source), catalogue=default_manager().catalogue, facts=FACTS, **options)


def used(path: Path, text: str) -> None:
    path.write_text(text)
    recipe = load_recipe(path)
    recipe.open_data()


# ------------------------------------------------------------------------------------ the artifacts


def pickled_state_dict(box: Path, mark: Path) -> None:
    torch.save({"net": network().state_dict(), "more": Payload(mark)}, box / "m.pt")
    opened(box / "m.pt")


def bare_pickle(box: Path, mark: Path) -> None:
    (box / "m.pth").write_bytes(pickle.dumps(Payload(mark)))
    opened(box / "m.pth")


def pickle_by_its_name(box: Path, mark: Path) -> None:
    (box / "m.pkl").write_bytes(pickle.dumps(Payload(mark)))
    opened(box / "m.pkl")


def whole_network(box: Path, mark: Path) -> None:
    torch.save(Whole(2, 2), box / "m.pt")
    opened(box / "m.pt")


def pickle_called_safetensors(box: Path, mark: Path) -> None:
    (box / "m.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    opened(box / "m.safetensors")


def endless_safetensors(box: Path, mark: Path) -> None:
    (box / "m.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    opened(box / "m.safetensors")


def torchscript(box: Path, mark: Path) -> None:
    with torch.no_grad():
        torch.jit.trace(network().eval(), torch.zeros(2, 1, 8, 8)).save(str(box / "m.pt"))
    opened(box / "m.pt")


def zip_bomb_of_weights(box: Path, mark: Path) -> None:
    opened(zipped(box / "m.pt", m__data__0=bytes(50_000_000)))


def tensor_that_is_larger_than_its_file(box: Path, mark: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1).expand(10**10)}, box / "m.pt")
    opened(box / "m.pt")


def sealed_checkpoint_with_code(box: Path, mark: Path) -> None:
    (box / "run" / "hardened").mkdir(parents=True)
    checkpoint.save(box / "run" / "hardened" / "best.pt", {"net": Payload(mark)})
    opened(box / "run")


def loader_module(box: Path, mark: Path) -> None:
    folder = logged(box / "m", card="flavors:\n  python_function: {loader_module: evil, code: code}\n")
    (folder / "code").mkdir()
    (folder / "code" / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\ndef _load_pyfunc(path): return 1\n")
    opened(folder)


def yaml_tag_in_mlmodel(box: Path, mark: Path) -> None:
    opened(logged(box / "m", card=f"flavors: !!python/object/apply:os.mkdir [{str(mark)!r}]\n"))


def weights_above_the_folder(box: Path, mark: Path) -> None:
    save_file(network().state_dict(), box.parent / "outside.safetensors")
    card = f"flavors:\n  art_ext: {{weights: ../../outside.safetensors, architecture: {ARCHITECTURE}}}\n"
    opened(logged(box / "m", card=card))


def weights_by_an_absolute_path(box: Path, mark: Path) -> None:
    save_file(network().state_dict(), box.parent / "outside.safetensors")
    card = f"flavors:\n  art_ext: {{weights: {box.parent / 'outside.safetensors'}, architecture: {ARCHITECTURE}}}\n"
    opened(logged(box / "m", card=card))


def weights_through_a_link(box: Path, mark: Path) -> None:
    save_file(network().state_dict(), box.parent / "outside.safetensors")
    folder = logged(box / "m")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(box.parent / "outside.safetensors")
    opened(folder)


def detectors_that_are_a_pickle(box: Path, mark: Path) -> None:
    files = f"weights: {WEIGHTS}, architecture: {ARCHITECTURE}, detectors: d.pt"
    folder = logged(box / "m", card=f"flavors:\n  art_ext: {{{files}}}\n")
    torch.save({"confidence/threshold": Payload(mark)}, folder / "d.pt")
    opened(folder)


def architecture_that_names_a_file_of_weights(box: Path, mark: Path) -> None:
    torch.save(Payload(mark), box / "evil.pth")
    known = architecture(network())
    known["kwargs"] = {"checkpoint_path": str(box / "evil.pth")}
    opened(logged(box / "m", change={"architecture": known}))


def architecture_from_a_folder(box: Path, mark: Path) -> None:
    known = architecture(network()) | {"name": f"local-dir:{box}"}
    opened(logged(box / "m", change={"architecture": known}))


def architecture_that_is_huge(box: Path, mark: Path) -> None:
    folder = logged(box / "m")
    (folder / ARCHITECTURE).write_text("[" * 100_000 + "]" * 100_000)
    opened(folder)


def architecture_of_endless_classes(box: Path, mark: Path) -> None:
    known = architecture(network()) | {"num_classes": 10**12}
    opened(logged(box / "m", change={"architecture": known}))


def recipe_with_a_tag(box: Path, mark: Path) -> None:
    used(box / "r.yaml", RECIPE + f"output: !!python/object/apply:os.mkdir [{str(mark)!r}]\n")


def recipe_that_unfolds(box: Path, mark: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    used(box / "r.yaml", RECIPE + "\n".join(lines) + "\n")


def recipe_that_names_a_pickle(box: Path, mark: Path) -> None:
    torch.save(Payload(mark), box / "evil.pth")
    used(box / "r.yaml", RECIPE.replace("timm: small_cnn", f"timm: small_cnn, checkpoint_path: {box / 'evil.pth'}"))


def npz_of_pickled_objects(box: Path, mark: Path) -> None:
    rows = np.array([Payload(mark)], dtype=object)
    np.savez(box / "d.npz", x_train=rows, y_train=rows, x_test=rows, y_test=rows)
    ENTRIES["npz"].open(root=box / "d.npz")


def npz_bomb(box: Path, mark: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 8, 8)})
    zipped(box / "d.npz", **{f"{part}.npy": content.getvalue() for part in ("x_train", "y_train", "x_test", "y_test")})
    ENTRIES["npz"].open(root=box / "d.npz")


def idx_bomb(box: Path, mark: Path) -> None:
    head = b"\0\0\x08\x03" + b"\xff\xff\xff\xff" * 3
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (box / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + bytes(10_000_000)))
    ENTRIES["mnist"].open(root=box)


def cifar_with_code(box: Path, mark: Path) -> None:
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (box / name).write_bytes(pickle.dumps({"data": Payload(mark), "labels": []}))
    ENTRIES["cifar10"].open(root=box)


def index_beside_an_archive(box: Path, mark: Path) -> None:
    for part in ("train", "validation"):
        with tarfile.open(box / f"{part}.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("../../escape/a.png"), io.BytesIO(b""))
        (box / f"_{part}_tarinfos.pickle").write_bytes(pickle.dumps(Payload(mark)))
    ENTRIES["timm"].open(root=box)


def csv_of_other_peoples_files(box: Path, mark: Path) -> None:
    (box / "list.csv").write_text("path,label\n/etc/passwd,a\n../outside.png,b\n")
    ENTRIES["csv"].open(root=box / "list.csv")


ARTIFACTS = [
    pickled_state_dict, bare_pickle, pickle_by_its_name, whole_network, pickle_called_safetensors, endless_safetensors,
    torchscript, zip_bomb_of_weights, tensor_that_is_larger_than_its_file, sealed_checkpoint_with_code, loader_module,
    yaml_tag_in_mlmodel, weights_above_the_folder, weights_by_an_absolute_path, weights_through_a_link,
    detectors_that_are_a_pickle, architecture_that_names_a_file_of_weights, architecture_from_a_folder,
    architecture_that_is_huge, architecture_of_endless_classes, recipe_with_a_tag, recipe_that_unfolds,
    recipe_that_names_a_pickle, npz_of_pickled_objects, npz_bomb, idx_bomb, cifar_with_code, index_beside_an_archive,
    csv_of_other_peoples_files,
]  # fmt: skip


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda artifact: artifact.__name__)
def test_it_is_refused_in_one_line_and_nothing_runs(artifact, tmp_path, monkeypatch):
    box, mark = tmp_path / "box", tmp_path / "mark"
    box.mkdir()
    monkeypatch.setenv("MARK", str(mark))
    monkeypatch.chdir(box)
    with pytest.raises(ArtExtError) as raised:
        artifact(box, mark)
    assert "\n" not in str(raised.value)
    assert not mark.exists(), "code of the artifact ran"
    assert {path.name for path in tmp_path.iterdir()} <= {"box", "outside.safetensors"}


@pytest.mark.parametrize("artifact", [pickled_state_dict, pickle_by_its_name, torchscript, loader_module])
def test_a_refusal_names_the_file_and_the_flag(artifact, tmp_path):
    with pytest.raises(ModelError, match="--trust-model") as raised:
        artifact(tmp_path, tmp_path / "mark")
    assert str(tmp_path) in str(raised.value)


def test_the_marks_would_show(tmp_path, monkeypatch):
    """The same pickle, trusted, does run: the test above can fail."""
    mark = tmp_path / "mark"
    torch.save({"net": network().state_dict(), "more": Payload(mark)}, tmp_path / "m.pt")
    (tmp_path / ARCHITECTURE).write_text(json.dumps(Network(architecture(network()), FACTS).as_record()))
    opened(tmp_path / "m.pt", trust=True)
    assert mark.is_dir()


def test_trusted_networks_are_opened(tmp_path):
    torch.save(network(), tmp_path / "whole.pt")
    with torch.no_grad():
        torch.jit.trace(network().eval(), torch.zeros(2, 1, 8, 8)).save(str(tmp_path / "script.pt"))
    for name in ("whole.pt", "script.pt"):
        opened(tmp_path / name, trust=True)


# ----------------------------------------------------------------------------------------- plugins


def trained_by(box: Path, **recipe) -> Path:
    plain = {"schema": 1, "name": "theirs", "model": {"timm": "small_cnn"}, "data": {"name": "digits"}}
    return logged(box / "m", change={"recipe": plain | recipe})


def test_a_model_s_recipe_loads_no_plugin_that_is_not_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("ART_EXT_ONLY_PLUGINS", "baselines")
    manager = PluginManager()
    manager.restrict_by_environment()
    manager.load_entry_points()
    with pytest.raises(ConfigError, match="not in ART_EXT_ONLY_PLUGINS"):
        open_model(str(trained_by(tmp_path / "a", use=[{"mmc": {}}])), catalogue=manager.catalogue)
    with pytest.raises(ConfigError, match="plugin mmc is blocked: not in ART_EXT_ONLY_PLUGINS"):
        open_model(str(trained_by(tmp_path / "b", plugins=["mmc"])), catalogue=manager.catalogue)
    with pytest.raises(ConfigError, match="unknown plugin 'evil'"):
        open_model(str(trained_by(tmp_path / "c", plugins=["evil"])), catalogue=manager.catalogue)
    assert "art_ext_mmc" not in [type(plugin).__module__ for plugin in manager.catalogue.ingredients.values()]
