"""Batches in pieces: the gradient of the whole batch, with the memory of one piece."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_ext.api import Facts, Ingredient, Plan
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.memory import in_pieces, is_out_of_memory, pieces
from art_ext.engine.net import Net
from art_ext.engine.run import Run, RunSettings
from art_ext.errors import MemoryShortageError
from art_ext_baselines import AWP, PGDAT, TRADES, FreeAT
from art_ext_dac import DAC

FACTS = Facts(3, (2, 6, 6))


@pytest.fixture(autouse=True)
def all_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def module(norm=lambda: nn.GroupNorm(2, 6)):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), norm(), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.Flatten(), nn.Linear(24, 3)
    )


def data(n):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(n, 2, 6, 6, generator=generator), torch.arange(n) % 3


class TooLarge(nn.Module):
    """A layer that only so many rows fit through."""

    def __init__(self, limit, training_only=False):
        super().__init__()
        self.limit, self.training_only, self.seen = limit, training_only, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.limit and (self.training or not self.training_only):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x


def train(ingredients, *, net=None, n=20, batch=8, micro=None, epochs=2):
    settings = RunSettings(accelerator="cpu", precision="64-true", channels_last=False, micro_batch=micro)
    net = Net(module() if net is None else net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    fit = Fit(Plan.of(ingredients, FACTS), net, optimizer, Run(settings, 0), epochs=epochs)
    fit(ArrayBatches(*data(n), batch, seed=1))
    return fit


def assert_close(fit, other, rtol=1e-9):
    for value, expected in zip(fit.net.module.parameters(), other.net.module.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=rtol, atol=1e-11)


@pytest.mark.parametrize(("n", "rows", "sizes"), [
    (8, None, [8]), (8, 8, [8]), (8, 3, [2, 3, 3]), (9, 8, [4, 5]), (5, 1, [1] * 5), (0, 4, [0]),
])
def test_pieces_are_few_and_of_nearly_one_size(n, rows, sizes):
    found = pieces(n, rows)
    assert [part.stop - part.start for part in found] == sizes
    assert [i for part in found for i in range(n)[part]] == list(range(n))


def test_any_loss_of_the_outputs_has_the_gradient_of_the_whole_batch():
    """Also one that looks at all rows at once."""
    x, y = data(10)
    gradients = []
    for rows in (None, 3):
        net, inputs = Net(module()), x.clone().requires_grad_()
        logits = in_pieces(net, inputs, rows).logits
        loss = F.cross_entropy(logits, y) + logits.std() * logits.softmax(1).max()
        loss.backward()
        gradients.append([inputs.grad, *(parameter.grad for parameter in net.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_one_piece_is_in_the_network_at_a_time():
    layer = TooLarge(100)
    net = Net(nn.Sequential(layer, *module()))
    in_pieces(net, data(10)[0], 4).logits.sum().backward()
    assert sorted(layer.seen) == [3, 3, 3, 3, 4, 4], "each piece once forward, once more backward"


METHODS = {
    "pgd_at": [PGDAT(eps=0.1, steps=3)],
    "trades": [TRADES(eps=0.1, steps=3)],
    "mixed": [PGDAT(eps=0.1, steps=2, clean_fraction=0.5)],
    "awp": [PGDAT(eps=0.1, steps=2), AWP()],
    "dac": [PGDAT(eps=0.1, steps=2), DAC()],
    "free_at": [FreeAT(eps=0.1, replays=2)],
}


@pytest.mark.parametrize("name", METHODS)
def test_training_in_pieces_is_training(name):
    whole, pieced = train(METHODS[name]), train(METHODS[name], micro=3)
    assert_close(pieced, whole)
    for one, other in zip(pieced.history.epochs, whole.history.epochs, strict=True):
        assert one.metrics["train/loss"] == pytest.approx(other.metrics["train/loss"])


def test_batch_norms_see_a_piece_at_a_time_once():
    """Where pieces were asked for; statistics move once a piece, not twice."""
    fit = train([], net=module(lambda: nn.BatchNorm2d(6)), n=8, epochs=1, micro=4)
    assert int(fit.net.module[1].num_batches_tracked) == 2


# Out of memory -------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_fit_is_taken_in_smaller_pieces(caplog):
    whole = train(METHODS["trades"], net=nn.Sequential(TooLarge(100), *module()))
    layer = TooLarge(3)
    fit = train(METHODS["trades"], net=nn.Sequential(layer, *module()))
    assert_close(fit, whole)
    assert (fit.run.craft_batch, fit.run.micro_batch) == (2, 2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[-1].startswith("step 0 did not fit in memory; 2 images at once go through the network from now on")


def test_crafting_alone_is_split_where_that_is_enough():
    """Even beside batch norms, which are in eval mode there."""
    bn = lambda: nn.BatchNorm2d(6)  # noqa: E731
    whole = train(METHODS["pgd_at"], net=nn.Sequential(TooLarge(100), *module(bn)))

    class Craft(TooLarge):
        def forward(self, x):
            return x if self.training else super().forward(x)

    fit = train(METHODS["pgd_at"], net=nn.Sequential(Craft(4), *module(bn)))
    assert (fit.run.craft_batch, fit.run.micro_batch) == (4, None)
    assert_close(fit, whole)


def test_batch_norms_do_not_get_fewer_rows_unasked():
    net = nn.Sequential(TooLarge(4, training_only=True), *module(lambda: nn.BatchNorm2d(6)))
    message = r"step 0, 8 images, does not fit .* batch norms would see fewer rows at once; set train.micro_batch to 4"
    with pytest.raises(MemoryShortageError, match=message):
        train([], net=net)


def test_a_step_that_moved_the_weights_is_not_begun_again():
    class Second(Ingredient):
        name = "second"

        def apply(self, plan):
            def make(then):
                def update(step):
                    then(step)
                    raise torch.OutOfMemoryError("CUDA out of memory")

                return update

            return plan.wrap(self, make)

    with pytest.raises(MemoryShortageError, match="its first half has moved the weights already"):
        train([Second()])


def test_one_image_that_does_not_fit():
    with pytest.raises(MemoryShortageError, match="not even one image fits"):
        train([], net=nn.Sequential(TooLarge(0, training_only=True), *module()))


def test_other_errors_are_as_they_are():
    class Wrong(nn.Module):
        def forward(self, x):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train([], net=nn.Sequential(Wrong(), *module()))


def test_the_cpu_s_own_words_are_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 55)
    assert is_out_of_memory(error.value)
