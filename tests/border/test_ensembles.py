"""Ensembles as data, from recipes, and through a whole run."""

from pathlib import Path

import pytest
import torch

import art_ext
from art_ext.api import ConfigError, Facts, ModelError
from art_ext.border.timm import architecture, build_model, rebuild
from art_ext.host.builtin import art_ext_models
from art_ext.host.job import prepare
from art_ext.host.recipe import load_recipe

FACTS = Facts(10, (1, 8, 8))
(ENTRY,) = art_ext_models()
RECIPES = Path(__file__).parents[2] / "recipes" / "digits"


def build(**options):
    return ENTRY.build({"of": "small_cnn", "width": 2, **options}, FACTS)


def test_a_recipe_s_ensemble_has_members_with_weights_of_their_own():
    torch.manual_seed(0)
    model = build()
    assert len(model.members) == 3
    torch.manual_seed(0)
    again = build(members=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"members": 1}, r"model\.members: "), ({"of": "small_cn"}, "unknown network"), ({"of": 3}, r"model\.of: ")],
)
def test_impossible_ensembles(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_it_is_built_again_from_data():
    torch.manual_seed(0)
    model = build(mean=[0.3], std=[0.5]).eval()
    data = architecture(model)
    assert [member["kwargs"] for member in data["members"]] == [{"width": 2}] * 3
    again = rebuild(data, model.state_dict()).eval()
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(again(x), model(x))


def test_garbled_ensembles_and_members_of_unknown_origin_are_refused():
    model = build()
    for garbled in (3, [1, 2], "ab"):
        with pytest.raises(ModelError, match="garbles its members"):
            rebuild(architecture(model) | {"members": garbled}, model.state_dict())
    with pytest.raises(ModelError, match="nobody knows how this Linear was built"):
        architecture(art_ext.ensemble([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]))


def test_other_layers_than_were_saved_are_noticed():
    """A swapped activation has no weights: without this the network would be built again with its ReLU."""
    model = build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), width=2)

    def smooth(net):
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.ReLU):
                    setattr(parent, name, torch.nn.Softplus())
        return net

    smooth(model)
    data = architecture(model)
    with pytest.raises(ModelError, match="saved with other layers"):
        rebuild(data, model.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(rebuild(data, model.state_dict(), change=smooth).eval()(x), model.eval()(x))


@pytest.mark.parametrize("name", ["adp", "adp_pgd_at", "bag", "bag_trades", "smooth_pgd_at"])
def test_recipes_on_board_are_ready_to_run(name):
    job = prepare(load_recipe(RECIPES / f"{name}.yaml"))
    net = job.net(job.plan(job.ingredients))
    assert (net.wanted == {"members"}) == name.startswith("adp")
    # the undefended network meets the same attacks
    assert job.net(job.plan(())).wanted == net.wanted


def test_a_recipe_with_a_single_network_is_refused_before_training():
    recipe = load_recipe(RECIPES / "adp.yaml", ["model={timm: small_cnn}"])
    with pytest.raises(ModelError, match=r"adp needs the members .* model: \{name: ensemble, of: NAME, members: 3\}"):
        prepare(recipe)
