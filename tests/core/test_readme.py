"""What the README shows is run."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_ext.host.manager import PluginManager, default_manager
from art_ext.types import Facts

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the trackers of the examples write into the current folder


@pytest.mark.slow
def test_the_lines_for_an_art_pipeline_run(capsys):
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = (found.images[:120] / 16).astype(np.float32)[:, None], found.target[:120]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )
    scope = {"classifier": classifier, "x": x, "y": y}
    for block in BLOCKS[:3]:
        exec(compile(block, "README.md", "exec"), scope)
    assert np.abs(scope["x_adv"] - x).max() <= 0.15 + 1e-6
    assert (Path.cwd() / "mlflow.db").is_file()
    assert "robust accuracy" in capsys.readouterr().out
    assert scope["record"].threat.eps == 0.15


def test_the_plugin_of_twenty_lines_combines_with_ours(monkeypatch):
    module = types.ModuleType("art_ext_penalty")
    monkeypatch.setitem(sys.modules, "art_ext_penalty", module)
    exec(compile(BLOCKS[3], "art_ext_penalty.py", "exec"), module.__dict__)
    catalogue = PluginManager.isolated({"penalty": module}).catalogue
    penalty = catalogue.ingredient("confidence_penalty")
    pgd_at = default_manager().catalogue.ingredient("pgd_at")
    parts = catalogue.plan([pgd_at(eps=0.15), penalty(beta=0.2)], Facts(10, (1, 8, 8))).compose()
    assert parts.criterion.beta == 0.2
    assert parts.attack is not None


def test_every_file_that_the_readme_names_exists():
    root = Path(__file__).parents[2]
    named = re.findall(r"\]\((docs/[^)]+)\)|`(benchmarks/README\.md)`|(recipes/digits/\w+\.yaml)", README)
    for parts in named:
        path = next(filter(None, parts))
        assert (root / path).is_file(), path
