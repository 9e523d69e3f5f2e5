"""The comparison's picture: a bar a model and attack, whatever their number."""

import pytest
import torch

from art_ext.evaluation.figures import comparison
from art_ext.evaluation.suite import Accuracy


@pytest.mark.parametrize("models", [1, 2, 3, 4, 6])
def test_every_model_has_its_bars_in_a_colour_of_its_own(models):
    right = torch.tensor([True, False, True, True])
    rows = {f"m{i}": [Accuracy("clean", right), Accuracy("pgd", right.roll(i))] for i in range(models)}
    (axes,) = comparison(rows).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(rows)
    bars = [bar for bar in axes.patches if bar.get_width() > 0]
    assert len(bars) == 2 * models
    colours = [axes.containers[2 * i].patches[0].get_facecolor() for i in range(models)]
    assert len(set(colours)) == min(models, 4)
