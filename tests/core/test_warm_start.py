"""Weights of an earlier training: who may go on from them, and how they are told from new ones."""

import numpy as np
import pytest
import torch
from art.data_generators import PyTorchDataGenerator
from art.estimators.classification import PyTorchClassifier
from evaluated import data, trained
from torch import nn

from art_ext.api import Ingredient, ModelError, Paper
from art_ext.border.art import RecipeTrainer
from art_ext.border.timm import build_model
from art_ext.data.entry import DatasetOptions
from art_ext.data.onboard import digits
from art_ext.engine.warm_start import knows_labels, objections, refuse


class Choosy(Ingredient):
    """Goes on from networks with a mark alone."""

    name = "choosy"
    paper = Paper("None", "Nobody", "nowhere", 2020)

    def apply(self, plan):
        return plan

    def cannot_continue(self, model):
        return "" if getattr(model, "mark", False) else "they lack the mark"


class Easy(Ingredient):
    name = "easy"
    paper = Choosy.paper

    def apply(self, plan):
        return plan


def classifier(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 3, optimizer=optimizer, clip_values=(0, 1))


def trainer(model, *ingredients):
    return RecipeTrainer(classifier(model), ingredients, track=False, verbose=False)


def streamed(x, y):
    rows = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return PyTorchDataGenerator(torch.utils.data.DataLoader(rows, batch_size=8), len(y), 8)


def test_the_message_names_the_weights_the_ingredient_the_reason_and_the_way_out():
    against = objections([Easy(), Choosy()], nn.Linear(1, 1))
    assert against == [("choosy", "they lack the mark")]
    with pytest.raises(ModelError) as error:
        refuse(against, "the weights of w", "leave them out")
    assert str(error.value) == (
        "choosy cannot train the weights of w further: they lack the mark; leave them out, or take one that choosy "
        "trained"
    )
    refuse([], "w", "")


@pytest.mark.parametrize("generator", [False, True])
def test_a_classifier_that_knows_the_labels_is_refused_and_left_as_it_was(generator):
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = (part.numpy() for part in data(48))
    chosen = trainer(model, Choosy())
    fit = (lambda: chosen.fit_generator(streamed(x, y), nb_epochs=1)) if generator else (lambda: chosen.fit(x, y))
    with pytest.raises(ModelError, match=r"choosy cannot train this classifier.* further: they lack the mark; build"):
        fit()
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_marked_or_a_new_network_and_any_with_an_easy_ingredient_are_trained():
    x, y = (part.numpy() for part in data(24))
    marked = trained()
    marked.mark = True
    trainer(marked, Choosy()).fit(x, y, nb_epochs=1)
    trainer(trained(), Easy()).fit(x, y, nb_epochs=1)
    torch.manual_seed(0)
    new = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    for _ in range(2):  # one that knows nothing after an epoch may go on as well
        trainer(new, Choosy()).fit(x, np.roll(y, 1), nb_epochs=1)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_new_networks_do_not_know_the_labels_even_where_they_tell_two_classes_apart(n_classes):
    train = digits(DatasetOptions()).train
    rows = (train.y < n_classes).nonzero().squeeze(1)[:256]
    x, y = train.x[rows], train.y[rows]
    accuracies = []
    for seed in range(12):
        with torch.no_grad():
            logits = build_model("small_cnn", num_classes=n_classes, input_shape=(1, 8, 8), seed=seed).eval()(x)
        accuracies.append(float((logits.argmax(1) == y).float().mean()))
        assert not knows_labels(logits, y)
        assert not knows_labels(-logits, y)
    if n_classes == 2:
        assert max(accuracies) > 0.65, "chance alone does not tell new networks from trained ones"


def test_a_sure_network_that_is_wrong_now_and_then_knows_the_labels_and_an_inverted_one_does_not():
    y = torch.arange(40) % 4
    logits = 200.0 * nn.functional.one_hot(torch.where(torch.arange(40) % 5 == 0, (y + 1) % 4, y), 4)
    assert nn.functional.cross_entropy(logits, y) > np.log(4)
    assert knows_labels(logits, y)
    assert not knows_labels(-logits, y)
    assert not knows_labels(torch.zeros(40, 4), y)
