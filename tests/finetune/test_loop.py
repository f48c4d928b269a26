"""One step after another: what is added to the loss, what moves and what does not, against plain torch."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skembed import ImageEmbedder
from skembed.augment.mixing import mixup
from skembed.backbones.loading.load import load, open_spec
from skembed.backbones.spec import BackboneSpec
from skembed.embedders.encoder import Encoder
from skembed.exceptions import DeviceWarning, TrainingError
from skembed.finetune.convolutions import _is_faulty as faulty
from skembed.finetune.data import prepared_chunks
from skembed.finetune.features import NetworkSource, TableSource
from skembed.finetune.loop import (
    Averaged,
    Epoch,
    Pull,
    Settings,
    Targets,
    build_optimizer,
    epoch_rng,
    evaluate,
    train_epoch,
)
from skembed.finetune.network import FrozenNetwork, LinearHead, Network
from skembed.finetune.tasks import Multiclass, Multilabel, Regression
from skembed.inference.reading import Reading
from skembed.probes.linear import Probe, Standardizer
from skembed.schedules import SCHEDULES
from skembed.testing import array_backbone
from tests.backbones import tiny

N, WIDTH, CLASSES = 23, 8, 3
PLAIN = Settings(dropout=0.0, weight_decay=0.0, clip_norm=None, schedule="constant", batch_size=8, learning_rate=1e-2)


def _settings(**changes):
    return Settings(**{**vars(PLAIN), **changes})


def _data(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, 4)).astype(np.float32)
    y = np.arange(N) % CLASSES
    targets = torch.from_numpy(np.eye(CLASSES)[y]).float()
    return X, y, targets


def _head(n_features=WIDTH, n_outputs=CLASSES, dropout=0.0):
    rng = np.random.default_rng(5)
    standardizer = Standardizer(rng.normal(size=n_features) / 5, rng.uniform(0.5, 2, size=n_features))
    probe = Probe(rng.normal(size=(n_outputs, n_features)) / 3, rng.normal(size=n_outputs) / 3, 1.0)
    return LinearHead(standardizer, probe, dropout)


class World:
    """A double with a head, its samples, and all that an epoch needs."""

    def __init__(self, n_unfrozen=2, weights=None, task=None, **changes):
        self.settings = _settings(**changes)
        X, _, values = _data()
        self.network = Network(
            array_backbone(), Reading((2,), "mean"), _head(dropout=self.settings.dropout), n_features=WIDTH,
            normalize=False,
        )  # fmt: skip
        samples = self.network.backbone.preprocess(X, None)
        self.source = NetworkSource(self.network, lambda indices, view: [samples[i] for i in indices])
        self.targets = Targets(values, torch.ones(N) if weights is None else torch.from_numpy(weights).float())
        self.network.unfreeze(n_unfrozen)
        self.optimizer = build_optimizer(self.network, n_unfrozen, self.settings)
        self.average = None if self.settings.ema is None else Averaged(self.network, self.settings.ema)
        self.epoch = Epoch(
            self.network, task or Multiclass(np.arange(CLASSES)), self.source, self.targets, self.settings,
            self.optimizer, self.average,
        )  # fmt: skip

    def train(self, n_epochs=2, seed=0):
        steps = -(-N // self.settings.batch_size)
        return [
            train_epoch(
                self.epoch, np.arange(N), epoch_rng(seed, i), first_step=i * steps, total_steps=n_epochs * steps
            )
            for i in range(n_epochs)
        ]

    def values(self):
        return {name: value.detach().clone() for name, value in self.network.named_parameters()}


# -- against a plain loop -----------------------------------------------------------------------------------


class PlainModel:
    """The double and its head, written out by hand."""

    def __init__(self, n_unfrozen):
        module, head = array_backbone().module, _head()
        self.blocks = [module.stem.weight, module.layers[0].weight, module.layers[1].weight]
        self.frozen, self.trained = self.blocks[: 3 - n_unfrozen], self.blocks[3 - n_unfrozen :]
        for value in self.frozen:
            value.requires_grad_(False)
        self.mean, self.scale = head.mean, head.scale
        self.weight, self.bias = head.linear.weight, head.linear.bias
        self.start = [value.detach().clone() for value in self.trained]
        self.parameters = [*self.trained, self.weight, self.bias]

    def features(self, x):
        for block in self.blocks:
            x = torch.tanh(x @ block.T)
        return x

    def __call__(self, x):
        return (self.features(x) - self.mean) / self.scale @ self.weight.T + self.bias


def _plain_loop(n_epochs, n_unfrozen, weights, settings, seed=0):
    """What `World.train` does, in a page of plain torch; returns losses, and averages of the parameters."""
    model, (X, y, _) = PlainModel(n_unfrozen), _data()
    X, y, weights = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(weights).float()
    top = settings.learning_rate * settings.backbone_factor
    rates = [top * settings.layer_decay**i for i in range(n_unfrozen)][::-1]
    groups = [
        {"params": [model.weight], "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [model.bias], "lr": settings.learning_rate, "weight_decay": 0.0},
        *(
            {"params": [block], "lr": rate, "weight_decay": settings.weight_decay}
            for block, rate in zip(model.trained, rates, strict=True)
        ),
    ]
    optimizer = torch.optim.AdamW(groups)
    highest = [group["lr"] for group in groups]
    averages = {id(p): p.detach().clone() for p in model.parameters}
    size, losses, step = settings.batch_size, [], 0
    total = n_epochs * -(-N // size)
    for epoch in range(n_epochs):
        order = epoch_rng(seed, epoch).permutation(np.arange(N))
        summed = 0.0
        for start in range(0, N, size):
            batch = torch.from_numpy(order[start : start + size])
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = rate * SCHEDULES[settings.schedule](step, total=total)
            each = F.cross_entropy(
                model(X[batch]), y[batch], reduction="none", label_smoothing=settings.label_smoothing
            )
            loss = (each * weights[batch]).sum() / weights[batch].sum()
            pulls = [(p - s).square().sum() for p, s in zip(model.trained, model.start, strict=True)]
            optimizer.zero_grad()
            (loss + settings.l2_sp / 2 * sum(pulls)).backward()
            if settings.clip_norm is not None:
                norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters))
                if norm > settings.clip_norm:
                    for p in model.parameters:
                        p.grad *= settings.clip_norm / norm
            optimizer.step()
            step += 1
            summed += float(loss.detach()) * len(batch)
            if settings.ema is not None:
                decay = min(settings.ema, (1 + step) / (10 + step))
                for p in model.parameters:
                    averages[id(p)] = decay * averages[id(p)] + (1 - decay) * p.detach()
        losses.append(summed / N)
    return losses, model, averages


@pytest.mark.parametrize("n_unfrozen", [0, 1, 3])
@pytest.mark.parametrize("changes", [
    {},
    {"weight_decay": 0.3},
    {"l2_sp": 0.5},
    {"clip_norm": 0.3},
    {"label_smoothing": 0.2},
    {"schedule": "slanted_triangular", "layer_decay": 0.3, "backbone_factor": 0.5},
    {"weight_decay": 0.1, "l2_sp": 0.1, "clip_norm": 0.5, "label_smoothing": 0.1, "schedule": "cosine", "ema": 0.5},
], ids=lambda changes: "+".join(changes) or "plain")  # fmt: skip
def test_training_is_that_of_a_plain_loop(n_unfrozen, changes):
    weights = np.random.default_rng(1).choice([0.5, 1.0, 3.0], size=N)
    world = World(n_unfrozen, weights, **changes)
    losses, plain, averages = _plain_loop(4, n_unfrozen, weights, world.settings)
    np.testing.assert_allclose(world.train(4), losses, rtol=0, atol=1e-6)
    module, head = world.network.backbone.module, world.network.head.linear
    found = [module.stem.weight, module.layers[0].weight, module.layers[1].weight, head.weight, head.bias]
    expected = [*plain.blocks, plain.weight, plain.bias]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=2e-5)
    if world.average is not None:
        world.average.swap()
        for own, other in zip(found, expected, strict=True):
            if id(other) in averages:
                torch.testing.assert_close(own.detach(), averages[id(other)], rtol=0, atol=2e-5)


def test_labels_and_numbers_train_on_their_own_losses():
    X, _, _ = _data()
    rng = np.random.default_rng(0)
    labels, numbers = rng.integers(0, 2, size=(N, CLASSES)), rng.normal(size=(N, CLASSES))
    tasks = [
        (Multilabel(CLASSES), labels, F.binary_cross_entropy_with_logits),
        (Regression(np.zeros(CLASSES), np.ones(CLASSES), False), numbers, F.mse_loss),
    ]
    for task, y, loss in tasks:
        world = World(1, task=task, batch_size=N)
        world.epoch.targets = Targets(torch.from_numpy(task.encode(y)).float(), torch.ones(N))
        expected = loss(PlainModel(1)(torch.from_numpy(X)), torch.from_numpy(y).float())
        assert world.train(1)[0] == pytest.approx(float(expected.detach()), abs=1e-6)


def test_training_learns():
    losses = World(3, backbone_factor=1.0, learning_rate=3e-2).train(40)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_follow_the_schedule_step_by_step(schedule, monkeypatch):
    world, seen = World(2, schedule=schedule), []
    monkeypatch.setattr(
        world.epoch, "step", lambda batch, rng: seen.append([g["lr"] for g in world.optimizer.param_groups]) or 0.0
    )
    world.train(3)
    highest = [1e-2, 1e-2, 1e-3, 8e-4]
    factors = [SCHEDULES[schedule](step, total=9) for step in range(9)]
    np.testing.assert_allclose(seen, np.outer(factors, highest))


def test_every_sample_is_seen_once_an_epoch_in_an_order_of_its_own(monkeypatch):
    world, seen, told = World(), [], []
    monkeypatch.setattr(world.epoch, "step", lambda batch, rng: seen.append(batch) or float(len(batch)))
    indices = np.array([3, 5, 7, 11, 13, 17, 19, 2, 20])
    for place in range(2):
        loss = train_epoch(world.epoch, indices, epoch_rng(0, place), first_step=0, total_steps=9, progress=told.append)
        # A mean over samples and not over batches: the last batch is smaller.
        assert loss == pytest.approx((8 * 8 + 1 * 1) / 9)
    first, second = np.concatenate(seen[:2]), np.concatenate(seen[2:])
    assert sorted(first) == sorted(second) == sorted(indices)
    assert list(first) != list(second)
    assert told == [8, 1, 8, 1]


# -- what is added to the loss ------------------------------------------------------------------------------


def test_the_pull_is_half_its_strength_times_the_squared_distance():
    network = World(2).network
    base = dict(network.base.module.named_parameters())
    with torch.no_grad():
        for value in network.parameters():
            value += torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    moved = [(f"layers.{i}.weight", network.backbone.module.layers[i].weight) for i in (0, 1)]
    penalty = Pull(network, 0.3)()
    expected = 0.15 * sum(float((value - base[name]).detach().square().sum()) for name, value in moved)
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    penalty.backward()
    for name, value in moved:
        torch.testing.assert_close(value.grad, 0.3 * (value.detach() - base[name]))
    # New, so that there is nothing to be near to.
    assert network.head.linear.weight.grad is None


def test_the_pull_takes_weights_back_at_the_rate_of_its_closed_form():
    """Nothing else pulls: the distance shrinks by 1 - rate * strength at each step of gradient descent."""
    world = World(2, l2_sp=0.5)
    with torch.no_grad():
        # The head is deaf to the backbone, so that the data says nothing to it.
        world.network.head.linear.weight.zero_()
        for layer in world.network.backbone.module.layers:
            layer.weight += 0.7
    blocks = [layer.weight for layer in world.network.backbone.module.layers]
    descent = torch.optim.SGD([{"params": blocks, "lr": 0.2, "base_rate": 0.2}])
    world.epoch.optimizer = descent
    world.train(2)
    for layer, start in zip(world.network.backbone.module.layers, array_backbone().module.layers, strict=True):
        distance = (layer.weight - start.weight).detach()
        torch.testing.assert_close(distance, torch.full_like(distance, 0.7 * (1 - 0.2 * 0.5) ** 6), rtol=1e-4, atol=0)


def test_without_strength_or_blocks_there_is_no_pull():
    assert Pull(World(2).network, 0.0)() == 0.0
    assert Pull(World(0).network, 1.0)() == 0.0
    assert Pull(FrozenNetwork(_head()), 1.0)() == 0.0


def test_the_loss_that_is_told_leaves_the_pull_out():
    with_pull, without = World(2, l2_sp=5.0), World(2)
    for world in (with_pull, without):
        with torch.no_grad():
            world.network.backbone.module.layers[1].weight += 1.0
    batch = np.arange(8)
    assert with_pull.epoch.step(batch, epoch_rng(0)) == pytest.approx(without.epoch.step(batch, epoch_rng(0)))


def test_mixup_is_a_share_of_two_rows_and_of_their_targets():
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(6, 4, generator=generator), torch.eye(6)
    mixed, mixed_targets = mixup(features, targets, np.random.default_rng(7), 0.4)
    # A row of the mixed identity is its recipe.
    torch.testing.assert_close(mixed, mixed_targets @ features)
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(6))
    torch.testing.assert_close(mixed_targets.sum(0), torch.ones(6))
    share = np.random.default_rng(7).beta(0.4, 0.4)
    assert any(value == pytest.approx(share) for value in mixed_targets.diag().tolist())


def test_mixup_draws_its_share_from_the_beta_distribution():
    rng, shares = np.random.default_rng(0), []
    for _ in range(2000):
        _, targets = mixup(torch.zeros(2, 1), torch.eye(2), rng, 0.3)
        shares.append(float(targets[0, 0]))
    # Where the pair is turned round, half of the time, its first share is drawn; else a row is mixed with itself.
    mixed = [share for share in shares if share < 1]
    assert len(mixed) == pytest.approx(1000, abs=110)
    assert np.mean(mixed) == pytest.approx(0.5, abs=0.05)
    # The variance of Beta(a, a) is 1 / (4 (2a + 1)).
    assert np.var(mixed) == pytest.approx(1 / (4 * 1.6), rel=0.1)


def test_mixup_reaches_the_loss_and_a_batch_of_one_is_left_alone():
    plain, mixed = World(1).train(1), World(1, mixup=0.5).train(1)
    assert mixed != pytest.approx(plain, rel=1e-3)
    alone = [World(1, batch_size=1, mixup=mixup).train(1) for mixup in (0.0, 0.5)]
    assert alone[0] == pytest.approx(alone[1])


def test_dropout_is_for_training_only():
    world = World(1, dropout=0.5)
    first, second = (evaluate(world.network, world.source, np.arange(N)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, PlainModel(1)(torch.from_numpy(_data()[0])).detach(), atol=1e-5)
    assert world.train(1) != pytest.approx(World(1).train(1), rel=1e-3)
    assert not world.network.head.training


def test_evaluation_does_not_depend_on_its_batches():
    world = World(1)
    indices = np.array([5, 0, 22, 7, 7, 3])
    whole = evaluate(world.network, world.source, indices)
    assert whole.dtype == np.float64
    assert whole.shape == (6, CLASSES)
    np.testing.assert_allclose(evaluate(world.network, world.source, indices, batch_size=4), whole, atol=1e-6)
    np.testing.assert_allclose(whole, evaluate(world.network, world.source, np.arange(N))[indices], atol=1e-6)
    assert all(parameter.grad is None for parameter in world.network.parameters())


# -- the average --------------------------------------------------------------------------------------------


def test_swapping_twice_is_back_again():
    world = World(2, ema=0.9)
    world.train(2)
    own = world.values()
    world.average.swap()
    averaged = world.values()
    world.average.swap()
    for name, value in world.values().items():
        assert torch.equal(value, own[name])
        assert not torch.equal(averaged[name], own[name])


def test_the_average_has_a_short_past_at_first():
    """By the closed form: after one step, two elevenths of the old value and nine of the new one."""
    network = FrozenNetwork(_head())
    average = Averaged(network, 0.999)
    start = network.head.linear.bias.detach().clone()
    with torch.no_grad():
        network.head.linear.bias += 11.0
    average.update()
    average.swap()
    torch.testing.assert_close(network.head.linear.bias.detach(), start + 9.0)
    assert average.n_steps == 1


def test_a_long_past_is_bounded_by_the_decay():
    network = FrozenNetwork(_head())
    average = Averaged(network, 0.5)
    average.n_steps = 1000
    start = network.head.linear.bias.detach().clone()
    with torch.no_grad():
        network.head.linear.bias += 2.0
    average.update()
    average.swap()
    torch.testing.assert_close(network.head.linear.bias.detach(), start + 1.0)


# -- memory -------------------------------------------------------------------------------------------------


class Starved:
    """Features of no more than so many samples at a time; and, once, not even of the second part."""

    def __init__(self, source, most, error, fail_at=None):
        self.source, self.most, self.error, self.fail_at, self.sizes = source, most, error, fail_at, []

    def features(self, indices, view=0):
        self.sizes.append(len(indices))
        if len(indices) > self.most or len(self.sizes) == self.fail_at:
            raise self.error
        return self.source.features(indices, view)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("CUDA error: out of memory"),
])  # fmt: skip
@pytest.mark.parametrize(("most", "fail_at"), [(3, None), (4, 3), (1, None)])
def test_a_batch_in_parts_gives_the_same_step_as_the_whole(error, most, fail_at):
    weights = np.random.default_rng(1).choice([0.5, 1.0, 3.0], size=N)
    changes = {"l2_sp": 0.2, "clip_norm": 0.4, "weight_decay": 0.1}
    whole, parts = World(2, weights, **changes), World(2, weights, **changes)
    parts.epoch.source = Starved(parts.source, most, error, fail_at)
    with pytest.warns(DeviceWarning, match="trained in parts of"):
        losses = parts.train(2)
    np.testing.assert_allclose(losses, whole.train(2), rtol=0, atol=1e-6)
    for name, value in whole.values().items():
        torch.testing.assert_close(parts.values()[name], value, rtol=0, atol=1e-6)
    assert max(parts.epoch.source.sizes[-4:]) <= most


def test_what_was_too_much_once_is_not_tried_again():
    world = World(1)
    world.epoch.source = source = Starved(world.source, 4, MemoryError())
    with pytest.warns(DeviceWarning) as told:
        world.train(3)
    assert len(told) == 1
    assert source.sizes[:3] == [8, 4, 4]
    assert max(source.sizes[1:]) == 4


def test_a_single_sample_that_is_too_much_is_an_error_that_says_what_to_do():
    world = World(1)
    world.epoch.source = Starved(world.source, 0, torch.OutOfMemoryError("CUDA out of memory"))
    before = world.values()
    with pytest.warns(DeviceWarning), pytest.raises(MemoryError, match="Unfreeze fewer blocks"):
        world.train(1)
    assert world.epoch.source.sizes == [8, 4, 2, 1]
    for name, value in world.values().items():
        assert torch.equal(value, before[name])


def test_other_errors_are_not_taken_for_memory():
    world = World(1)
    world.epoch.source = Starved(world.source, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        world.train(1)
    assert world.epoch.fits == 8
    assert not world.network.head.training


# -- when the loss is no number -----------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "loss"), [(float("nan"), "nan"), (1e30, "inf")])
def test_a_loss_that_is_no_number_is_an_error_before_it_is_a_step(value, loss):
    world = World(2, task=Regression(np.zeros(CLASSES), np.ones(CLASSES), False))
    features = torch.zeros(N, WIDTH)
    features[4] = value
    world.epoch.source = TableSource([features.numpy()], world.network.device)
    before = world.values()
    with pytest.raises(TrainingError, match=f"loss became {loss}"):
        world.epoch.step(np.array([3, 4, 5]), epoch_rng(0))
    for name, own in world.values().items():
        assert torch.equal(own, before[name])
    with pytest.raises(TrainingError):
        world.train(1)
    assert not world.network.head.training


def test_a_rate_that_is_too_high_is_found_out():
    world = World(0, task=Regression(np.zeros(CLASSES), np.ones(CLASSES), False), learning_rate=1e30)
    with pytest.raises(TrainingError):
        world.train(20)


# -- weights of samples -------------------------------------------------------------------------------------


def test_a_weight_of_zero_is_no_sample():
    weights = np.where(np.arange(N) < 5, 0.0, 1.0)
    world, other = World(2, weights, batch_size=N), World(2, weights, batch_size=N)
    with torch.no_grad():
        other.targets.values[:5] = torch.tensor([0.0, 0.0, 1.0])
    assert world.train(2) == pytest.approx(other.train(2))
    nothing = World(2, np.zeros(N))
    before = nothing.values()
    assert nothing.train(1) == [0.0]
    for name, value in nothing.values().items():
        assert torch.equal(value, before[name])


def test_weights_count_relative_to_their_batch():
    weights = np.random.default_rng(1).uniform(0.5, 2, size=N)
    assert World(2, weights).train(2) == pytest.approx(World(2, 7 * weights).train(2), abs=1e-6)


# -- random states ------------------------------------------------------------------------------------------


def _states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2], random.getstate()


def _assert_untouched(before):
    for own, other in zip(_states(), before, strict=True):
        assert np.array_equal(own, other) if hasattr(own, "shape") else own == other


def test_the_random_states_of_others_are_left_alone():
    before = _states()
    world = World(2, dropout=0.5, mixup=0.4, ema=0.9)
    world.train(2)
    evaluate(world.network, world.source, np.arange(N))
    _assert_untouched(before)
    world.epoch.source = TableSource([np.full((N, WIDTH), np.nan, dtype=np.float32)], world.network.device)
    with pytest.raises(TrainingError):
        world.train(1)
    _assert_untouched(before)


def test_a_seed_decides_whatever_the_random_states_of_others_are():
    losses = []
    for user_seed, seed in ((0, 0), (1, 0), (1, 1)):
        torch.manual_seed(user_seed)
        losses.append(World(2, dropout=0.5, mixup=0.4).train(2, seed))
    assert losses[0] == losses[1]
    assert losses[1] != losses[2]


def test_places_have_random_numbers_of_their_own():
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 1, 3), (2, 1, 3, 1), (0, 0, 0, 1)]
    drawn = {epoch_rng(seed, *place).integers(2**62) for seed in (0, 1) for place in places}
    assert len(drawn) == 2 * len(places)
    assert epoch_rng(3, 1, 2).integers(2**62) == epoch_rng(3, 1, 2).integers(2**62)


# -- what moves and what does not ---------------------------------------------------------------------------


def _bits(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("n_unfrozen", [0, 1, 2, 3])
def test_only_the_highest_blocks_move(n_unfrozen):
    world = World(n_unfrozen, weight_decay=0.1, l2_sp=0.1)
    module, blocks = world.network.backbone.module, world.network.backbone.blocks
    before, shared = _bits(module), _bits(world.network.base.module)
    world.train(1)
    for index, block in enumerate(blocks):
        names = [name for name in before if block.owns(name)]
        assert names
        for name in names:
            moved = not torch.equal(module.state_dict()[name], before[name])
            assert moved == (index >= len(blocks) - n_unfrozen), name
    for name, value in _bits(world.network.base.module).items():
        assert torch.equal(value, shared[name])
    assert not torch.equal(world.network.head.linear.weight, _head().linear.weight)
    assert torch.equal(world.network.head.mean, _head().mean)
    assert set(world.network.changed()) == {
        name for name in before if any(block.owns(name) for block in world.network.top(n_unfrozen))
    }


def test_unfreezing_fewer_freezes_the_rest_again():
    world = World(3)
    world.network.unfreeze(1)
    world.optimizer = world.epoch.optimizer = build_optimizer(world.network, 1, world.settings)
    before = _bits(world.network.backbone.module)
    world.train(1)
    names = {name for name, _ in world.network.named_parameters()}
    assert names == {"head.linear.weight", "head.linear.bias", "backbone.layers.1.weight"}
    moved = {n for n, v in world.network.backbone.module.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {"layers.1.weight"}


@pytest.mark.parametrize("family", ["timm_resnet", "hf_resnet"])
@pytest.mark.parametrize("n_unfrozen", [0, 1, 2])
def test_batch_norm_remembers_no_batch(family, n_unfrozen, tmp_path):
    tiny.BUILDERS[family](tmp_path)
    images = tiny.samples("image") * 2
    embedder = ImageEmbedder(str(tmp_path), device="cpu", precision="float32").fit(images)
    backbone = load(embedder.spec_, torch.device("cpu"), "float32")
    shared = _bits(backbone.module)
    n_features = embedder._n_features_out
    network = Network(backbone, embedder._reading, _head(n_features, 2), n_features=n_features, normalize=False)
    # What overwrites memory in torch's backward pass (see skembed.finetune.convolutions) is not in what trains.
    assert not any(faulty(m) for m in network.backbone.module.modules() if isinstance(m, torch.nn.Conv2d))
    samples = next(prepared_chunks(Encoder(embedder), network.backbone, images))
    source = NetworkSource(network, lambda indices, view: [samples[i] for i in indices])
    network.unfreeze(n_unfrozen)
    settings = _settings(backbone_factor=1.0, batch_size=5)
    targets = Targets(torch.eye(2)[torch.arange(10) % 2], torch.ones(10))
    optimizer = build_optimizer(network, n_unfrozen, settings)
    epoch = Epoch(network, Multiclass(np.arange(2)), source, targets, settings, optimizer)
    train_epoch(epoch, np.arange(10), epoch_rng(0), first_step=0, total_steps=2)
    now = network.backbone.module.state_dict()
    moved = {name for name in shared if not torch.equal(now[name], shared[name])}
    # Weights of the highest blocks and nothing else: what is remembered of batches is that of the pre-training.
    assert any("running_mean" in name for name in shared)
    assert moved == {
        name for name, _ in backbone.module.named_parameters() if any(b.owns(name) for b in network.top(n_unfrozen))
    }
    for name, value in backbone.module.state_dict().items():
        assert torch.equal(value, shared[name]), f"{name} of the shared backbone moved"
    assert not backbone.module.training
    # So that a row depends on no other, in training as in use.
    rows = evaluate(network, source, np.arange(10))
    np.testing.assert_allclose(evaluate(network, source, np.arange(10), batch_size=1), rows, atol=1e-4)
    network.train(True)
    with torch.no_grad():
        both, alone = source.features(np.array([0, 1])), source.features(np.array([0]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-4)


def test_dropout_of_frozen_blocks_drops_nothing(tmp_path):
    """And that of blocks that train does: BERT's own dropout is 0.1."""
    tiny.BUILDERS["bert"](tmp_path)
    backbone = open_spec(BackboneSpec("text", str(tmp_path)))
    n_features = backbone.width
    reading = Reading((len(backbone.blocks) - 1,), "mean")
    network = Network(backbone, reading, _head(n_features), n_features=n_features, normalize=False)
    dropouts = {n: m for n, m in network.backbone.module.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert dropouts
    for n_unfrozen in (2, 0, 1):
        network.unfreeze(n_unfrozen)
        network.train(True)
        own = {n for n in dropouts if any(block.owns(n) for block in network.top(n_unfrozen))}
        assert {name for name, module in dropouts.items() if module.training} == own
        assert bool(own) == bool(n_unfrozen)
    network.train(False)
    assert not any(module.training for module in network.backbone.module.modules())


# -- tensors that come and go -------------------------------------------------------------------------------


def test_loading_a_state_brings_all_else_back_to_the_base():
    network = World(3).network
    start = copy.deepcopy(network.state(0))
    with torch.no_grad():
        for value in network.parameters():
            value += 1.0
    top = {name: value.clone() for name, value in network.state(1).items()}
    assert {name for name in top if name.startswith("backbone.")} == {"backbone.layers.1.weight"}
    network.load(top)
    module, base = network.backbone.module, network.base.module
    torch.testing.assert_close(module.layers[1].weight, base.layers[1].weight + 1.0)
    assert torch.equal(module.layers[0].weight, base.layers[0].weight)
    assert torch.equal(module.stem.weight, base.stem.weight)
    assert set(network.changed()) == {"layers.1.weight"}
    network.load(start)
    assert network.changed() == {}
    assert torch.equal(network.head.linear.weight, _head().linear.weight)


def test_the_head_begins_as_the_probe_and_draws_nothing():
    rng = np.random.default_rng(0)
    standardizer = Standardizer(rng.normal(size=WIDTH), rng.uniform(0.5, 2, size=WIDTH))
    probe = Probe(rng.normal(size=(CLASSES, WIDTH)), rng.normal(size=CLASSES), 1.0)
    features = rng.normal(size=(10, WIDTH)).astype(np.float32)
    before = _states()
    network = FrozenNetwork(LinearHead(standardizer, probe, 0.5))
    _assert_untouched(before)
    network.train(False)
    with torch.no_grad():
        found = network.outputs(torch.from_numpy(features))
    np.testing.assert_allclose(found, probe(standardizer(features)), atol=1e-5)
    assert found.dtype == np.float64


def test_stronger_settings():
    stronger = Settings().stronger()
    assert (stronger.learning_rate, stronger.dropout, stronger.weight_decay, stronger.l2_sp) == (
        5e-4, pytest.approx(0.3), pytest.approx(0.1), 1e-3,
    )  # fmt: skip
    again = Settings(dropout=0.45, l2_sp=0.01, weight_decay=0.0, mixup=0.2).stronger()
    assert (again.dropout, again.l2_sp, again.weight_decay, again.mixup) == (0.5, pytest.approx(0.1), 0.01, 0.2)
