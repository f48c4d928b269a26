"""Mixup and cutmix inside a fit: what is mixed, with what weight, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from skembed import (
    AudioEmbedder,
    Augmentation,
    CutMix,
    FineTuneClassifier,
    FineTuneRegressor,
    ImageEmbedder,
    Mixup,
    Progressive,
    TextEmbedder,
)
from skembed.augment.mixing import Mix, draw_mix
from skembed.embedders.encoder import Encoder
from skembed.exceptions import DeviceWarning
from skembed.finetune.checkpoint import Checkpoint
from skembed.finetune.data import prepared_chunks
from skembed.finetune.features import NetworkSource
from skembed.finetune.loop import Settings, Targets, epoch_rng
from skembed.finetune.network import LinearHead, Network
from skembed.finetune.tasks import Regression
from skembed.probes.linear import Probe, Standardizer
from skembed.testing import ArrayEmbedder
from tests.backbones import tiny
from tests.finetune.test_loop import CLASSES, N, PlainModel, World, _data

SIDE = 64
BOTH = pytest.mark.parametrize("mixup_on", ["inputs", "features"])


# -- one step after another, by hand --------------------------------------------------------------------------


def _plain_loop(settings, weights, y, loss, n_epochs=2, n_unfrozen=2):
    """What `World.train` does, written out: the losses of both targets are mixed, and not the targets."""
    model, X = PlainModel(n_unfrozen), torch.from_numpy(_data()[0])
    weights, size = torch.from_numpy(weights).float(), settings.batch_size
    top = settings.learning_rate * settings.backbone_factor
    rates = [settings.learning_rate, settings.learning_rate, top * settings.layer_decay, top]
    parameters = [model.weight, model.bias, *model.trained]
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": rate} for p, rate in zip(parameters, rates, strict=True)], weight_decay=0.0
    )
    losses = []
    for epoch in range(n_epochs):
        rng = epoch_rng(0, epoch)
        order = rng.permutation(np.arange(N))
        rng.integers(2**62)  # torch's seed
        summed = 0.0
        for start in range(0, N, size):
            own = torch.from_numpy(order[start : start + size])
            share = rng.beta(settings.mixup, settings.mixup)
            other = own[torch.from_numpy(rng.permutation(len(own)))]
            if settings.mixup_on == "inputs":
                features = model.features(share * X[own] + (1 - share) * X[other])
            else:
                features = share * model.features(X[own]) + (1 - share) * model.features(X[other])
            outputs = (features - model.mean) / model.scale @ model.weight.T + model.bias
            first, second = (weights[at] * loss(outputs, y[at]) for at in (own, other))
            mean = (share * first + (1 - share) * second).sum() / weights[own].sum()
            optimizer.zero_grad()
            mean.backward()
            optimizer.step()
            summed += float(mean.detach()) * len(own)
        losses.append(summed / N)
    return losses, [*model.blocks, model.weight, model.bias]


def _values(world):
    module, head = world.network.backbone.module, world.network.head.linear
    return [module.stem.weight, module.layers[0].weight, module.layers[1].weight, head.weight, head.bias]


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_training_is_that_of_a_plain_loop(mixup_on, smoothing):
    weights = np.random.default_rng(1).choice([0.5, 1.0, 3.0], size=N)
    world = World(2, weights, mixup=0.6, mixup_on=mixup_on, label_smoothing=smoothing)

    def loss(outputs, y):
        return F.cross_entropy(outputs, y, reduction="none", label_smoothing=smoothing)

    losses, expected = _plain_loop(world.settings, weights, torch.from_numpy(_data()[1]), loss)
    np.testing.assert_allclose(world.train(2), losses, rtol=0, atol=1e-5)
    for own, other in zip(_values(world), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=2e-5)


@BOTH
def test_numbers_take_the_same_steps_as_with_both_of_their_losses(mixup_on):
    """The losses differ by what no step can change: how far the two numbers are from one another."""
    numbers, weights = np.random.default_rng(0).normal(size=(N, CLASSES)), np.random.default_rng(1).uniform(1, 3, N)
    world = World(2, weights, task=Regression(np.zeros(CLASSES), np.ones(CLASSES), False), mixup=0.6, mixup_on=mixup_on)
    world.epoch.targets = Targets(torch.from_numpy(numbers).float(), world.epoch.targets.weights)
    world.train(2)

    def loss(outputs, y):
        return (outputs - y).square().mean(1)

    _, expected = _plain_loop(world.settings, weights, torch.from_numpy(numbers).float(), loss)
    for own, other in zip(_values(world), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=2e-5)


def test_weights_count_as_those_of_classes_do_in_torch():
    y = np.array([0, 1, 2, 2, 1])
    class_weights = torch.tensor([0.2, 1.0, 5.0])
    targets, mix = Targets(torch.eye(3)[y], class_weights[y]), draw_mix(5, np.random.default_rng(4), mixup=1.0)
    assert 0.1 < mix.share < 0.9
    values, weights = targets.mixed(np.arange(5), mix.other, mix.share)
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    soft = mix.share * targets.values + (1 - mix.share) * targets.values[mix.other]
    expected = F.cross_entropy(outputs, soft, weight=class_weights, reduction="none")
    torch.testing.assert_close(-(values * outputs.log_softmax(1)).sum(1) * weights, expected)
    torch.testing.assert_close(weights.sum(), targets.weights.sum())
    torch.testing.assert_close(values.sum(1), torch.ones(5))


def test_a_class_without_weight_teaches_nothing_through_another():
    targets = Targets(torch.eye(3), torch.tensor([0.0, 0.0, 2.0]))
    values, weights = targets.mixed(np.array([0, 1, 2]), np.array([1, 2, 0]), 0.7)
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.6, 1.4]))
    torch.testing.assert_close(values[1:], torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    assert torch.isfinite(values).all()


def test_equal_weights_leave_the_share_as_it_is():
    targets = Targets(torch.eye(4), torch.full((4,), 3.0))
    values, weights = targets.mixed(np.arange(4), np.array([1, 0, 3, 2]), 0.3)
    torch.testing.assert_close(values, 0.3 * torch.eye(4) + 0.7 * torch.eye(4)[[1, 0, 3, 2]])
    torch.testing.assert_close(weights, targets.weights)


# -- memory ---------------------------------------------------------------------------------------------------


class Starved:
    """No more than so many samples at a time get through the network."""

    def __init__(self, source, most):
        self.source, self.most, self.sizes = source, most, []

    def _check(self, n):
        self.sizes.append(n)
        if n > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def features(self, indices, view=0):
        self._check(len(indices))
        return self.source.features(indices, view)

    def mixed_features(self, indices, mix, view=0):
        self._check(len(mix.other))
        return self.source.mixed_features(indices, mix, view)


@BOTH
@pytest.mark.parametrize("most", [2, 3, 4])
def test_a_batch_in_parts_gives_the_same_step_as_the_whole(mixup_on, most):
    """Pairs go across parts, and the second attempt draws nothing anew."""
    weights = np.random.default_rng(1).choice([0.5, 1.0, 3.0], size=N)
    whole, parts = (World(2, weights, mixup=0.6, mixup_on=mixup_on) for _ in range(2))
    parts.epoch.source = Starved(parts.source, most)
    with pytest.warns(DeviceWarning, match="which changes nothing else"):
        losses = parts.train(2)
    np.testing.assert_allclose(losses, whole.train(2), rtol=0, atol=1e-6)
    for name, value in whole.values().items():
        torch.testing.assert_close(parts.values()[name], value, rtol=0, atol=1e-6)
    assert max(parts.epoch.source.sizes[-4:]) <= most


def test_a_part_needs_its_partners_and_nobody_else():
    mix = Mix(0.3, np.array([4, 3, 2, 1, 0]))
    needed, part = mix.part(1, 3)
    assert needed.tolist() == [1, 2, 3]
    assert part.other.tolist() == [2, 1]
    values = torch.arange(5.0)[:, None]
    torch.testing.assert_close(part(values[needed])[0], mix(values)[0][1:3])


# -- both ways ------------------------------------------------------------------------------------------------


def test_of_two_ways_each_batch_goes_one_and_both_as_often():
    rng = np.random.default_rng(0)
    pastes = [draw_mix(4, rng, mixup=0.2, cutmix=1.0).centre is not None for _ in range(1000)]
    assert np.mean(pastes) == pytest.approx(0.5, abs=0.05)
    assert all(draw_mix(4, rng, cutmix=1.0).centre for _ in range(20))
    assert not any(draw_mix(4, rng, mixup=0.2).centre for _ in range(20))


# -- images ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vit")
    tiny.BUILDERS["timm_vit"](directory)
    return ImageEmbedder(str(directory), device="cpu", precision="float32")


@pytest.fixture(scope="module")
def images(embedder):
    """Three colours under noise."""
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    noise = rng.integers(-40, 40, size=(30, SIDE, SIDE, 3))
    return [Image.fromarray((colours[k] + n).astype(np.uint8)) for k, n in zip(y, noise, strict=True)], y


def _source(embedder, images):
    embedder = embedder.fit(images)
    width = embedder.transform(images[:1]).shape[1]
    head = LinearHead(Standardizer(np.zeros(width), np.ones(width)), Probe(np.zeros((3, width)), np.zeros(3), 1.0))
    network = Network(embedder._load(), embedder._reading, head, n_features=width, normalize=bool(embedder._normalized))
    samples = next(prepared_chunks(Encoder(embedder), network.backbone, images))
    return NetworkSource(network, lambda indices, view: [samples[i] for i in indices])


def _pixels(embedder, source, images):
    """What the network's preparation makes of images: levels from 0 to 255."""
    samples = next(prepared_chunks(Encoder(embedder), source.network.backbone, images))
    return [item.data["pixels"] for (item,) in samples]


def _rows_of(embedder, source, levels):
    """Of images in levels that need not be whole, scaled here."""
    module, prepare = source.network.backbone.module, source.network.backbone.prepare
    scaled = (np.stack(levels) / 255 - np.array(prepare.mean)) / np.array(prepare.std)
    return module(torch.tensor(scaled).permute(0, 3, 1, 2).float())


def test_averaged_inputs_are_the_averaged_pixels(embedder, images):
    other = np.array([3, 2, 0, 1])
    source = _source(embedder, images[0])
    levels = [pixels.astype(float) for pixels in _pixels(embedder, source, images[0][:4])]
    with torch.no_grad():
        found, share = source.mixed_features(np.arange(4), Mix(0.3, other))
        expected = _rows_of(embedder, source, [0.3 * levels[i] + 0.7 * levels[j] for i, j in enumerate(other)])
        plain = source.features(np.arange(4))
    assert share == 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - plain).abs().max() > 1e-2


def test_a_pasted_rectangle_is_that_of_the_pixels(embedder, images):
    other = np.array([3, 2, 0, 1])
    source = _source(embedder, images[0])
    levels = _pixels(embedder, source, images[0][:4])
    pasted = [pixels.copy() for pixels in levels]
    for i, j in enumerate(other):
        pasted[i][16:48, 40:64] = levels[j][16:48, 40:64]
    with torch.no_grad():
        # Of an area of a fourth, half of the side, about a point near the right edge: three fourths of it are inside.
        found, share = source.mixed_features(np.arange(4), Mix(0.75, other, (0.5, 0.875)))
        expected = _rows_of(embedder, source, pasted)
    assert share == 1 - 32 * 24 / SIDE**2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


SETTINGS = {"strategy": "partial", "learning_rate": 1e-2, "max_epochs": 2, "random_state": 0, "refit": False}
MIXED = pytest.mark.parametrize("mixed", [Mixup(0.4), CutMix(), [Mixup(0.4), CutMix()]], ids=str)


def _fit(embedder, data, *, replay=True, **parameters):
    classifier = FineTuneClassifier(embedder)
    classifier._replay = replay
    return classifier.set_params(**{**SETTINGS, "optimization__dropout": 0.0, **parameters}).fit(*data)


def _losses(fitted):
    return [record["train_loss"] for record in fitted.history_]


@MIXED
@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_mixed_images_run_through_the_whole_network(embedder, images, monkeypatch, mixed, strategy):
    """Those that train and no others, each once an epoch; the report says what it costs."""
    seen = []
    original = NetworkSource.mixed_features

    def noted(self, indices, mix, view=0):
        seen.append(indices)
        return original(self, indices, mix, view)

    monkeypatch.setattr(NetworkSource, "mixed_features", noted)
    fitted = _fit(embedder, images, strategy=strategy, mix=mixed)
    assert [len(np.unique(batch)) for batch in seen] == [24, 24]
    assert len(np.unique(np.concatenate(seen))) == 24, "of thirty images six are held out"
    assert not any(record["replayed"] for record in fitted.history_)
    assert "The frozen blocks were computed in every epoch: samples were mixed" in fitted.report_
    plain = _fit(embedder, images, strategy=strategy)
    assert _losses(fitted)[0] > _losses(plain)[0] + 0.05
    assert plain.report_.count("in every epoch") == 0


@MIXED
def test_held_out_images_are_never_mixed(embedder, images, mixed):
    """Where nothing is learned, the held-out loss stays the probe's in every digit that counts."""
    frozen = {"learning_rate": 1e-12, "max_epochs": 1}
    found, plain = (_fit(embedder, images, **frozen, mix=mix).history_[0] for mix in (mixed, None))
    assert found["valid_loss"] == pytest.approx(plain["valid_loss"], rel=1e-5)
    assert found["train_loss"] != pytest.approx(plain["train_loss"], rel=1e-2)


@MIXED
def test_a_seed_repeats_a_fit_exactly(embedder, images, mixed):
    first, again, other = (
        _fit(embedder, images, **{"mix": mixed, "random_state": seed, "optimization__dropout": 0.2})
        for seed in (0, 0, 1)
    )
    assert _losses(first) == _losses(again)
    np.testing.assert_array_equal(first.predict_proba(images[0]), again.predict_proba(images[0]))
    assert _losses(first) != _losses(other)


@pytest.mark.parametrize(("mixed", "said"), [
    (Mixup(), "With Mixup(on='features'), what they return is computed once."),
    ("cutmix", "Without CutMix, what they return is computed once."),
    ([CutMix(), Mixup()], "With Mixup(on='features') and without CutMix, what they return is computed once."),
    (["mixup", "cutmix"], "With Mixup(on='features') and without CutMix, what they return is computed once."),
    ([Mixup(on="features"), CutMix()], "Without CutMix, what they return is computed once."),
])  # fmt: skip
def test_the_report_names_what_mixed(embedder, images, mixed, said):
    assert said in _fit(embedder, images, mix=mixed, max_epochs=1).report_


def test_features_are_mixed_where_that_is_asked_for_and_blocks_are_replayed(embedder, images):
    fitted = _fit(embedder, images, mix=Mixup(0.4, on="features"))
    assert all(record["replayed"] for record in fitted.history_)
    assert "mixed" not in fitted.report_
    assert _losses(fitted) != _losses(_fit(embedder, images, mix=Mixup(0.4)))
    plain = _fit(embedder, images, mix=Mixup(0.4, on="features"), replay=False)
    np.testing.assert_allclose(_losses(fitted), _losses(plain), rtol=1e-4)


def test_cutmix_is_of_pixels_where_mixup_is_of_features(embedder, images, monkeypatch):
    mixes = []
    original = NetworkSource.mixed_features
    monkeypatch.setattr(NetworkSource, "mixed_features", lambda *given: mixes.append(given[2]) or original(*given))
    fitted = _fit(embedder, images, mix=[Mixup(0.4, on="features"), CutMix()], batch_size=4, max_epochs=4)
    n_batches = len(fitted.history_) * 6
    assert 0.2 * n_batches < len(mixes) < 0.8 * n_batches
    assert all(mix.centre for mix in mixes)
    assert not any(record["replayed"] for record in fitted.history_)


def test_each_image_is_augmented_once_an_epoch_and_then_mixed(embedder, images):
    seen = []

    def noted(image):
        seen.append(image.tobytes())
        return image

    fitted = _fit(embedder, images, mix=Mixup(0.4), augment=noted)
    assert len(seen) == 2 * 24
    assert _losses(fitted) == _losses(_fit(embedder, images, mix=Mixup(0.4)))
    stored = _fit(embedder, images, mix=CutMix(), augment=Augmentation("light", views=2))
    assert not any(record["replayed"] for record in stored.history_)


def test_several_labels_and_numbers_are_mixed_and_fitted_again_on_all(embedder, images):
    X, y = images
    labels = np.stack([y == 0, y != 1], axis=1).astype(int)
    classifier = _fit(embedder, (X, labels), mix=[Mixup(0.4), CutMix()], refit=True, random_state=3)
    assert classifier.predict_proba(X).shape == (30, 2)
    regressor = FineTuneRegressor(embedder, **{**SETTINGS, "refit": True}, mix=[Mixup(0.4), CutMix()])
    predicted = regressor.fit(X, y.astype(float)).predict(X)
    assert np.corrcoef(predicted, y)[0, 1] > 0.9
    assert np.isfinite(_losses(regressor)).all()


# -- the life of a fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["head", Progressive(stage_epochs=3)], ids=str)
def test_a_killed_fit_ends_at_the_same_result(tmp_path, monkeypatch, strategy):
    class Killed(BaseException):
        pass

    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4)).astype(np.float32)
    y = (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)

    def classifier(directory=None):
        return FineTuneClassifier(
            ArrayEmbedder(precision="float32"), strategy=strategy, mix=Mixup(0.4, on="inputs"), max_epochs=8,
            learning_rate=1e-2, random_state=0, checkpoint_dir=directory,
        )  # fmt: skip

    whole = classifier().fit(X, y)
    original, done = Checkpoint.save, []

    def save(self, *arguments):
        original(self, *arguments)
        done.append(1)
        if len(done) == 4:
            raise Killed

    with monkeypatch.context() as context:
        context.setattr(Checkpoint, "save", save)
        with pytest.raises(Killed):
            classifier(tmp_path).fit(X, y)
    resumed = classifier(tmp_path).fit(X, y)
    assert _losses(resumed) == _losses(whole)
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))


def test_stronger_regularization_mixes_as_before():
    again = Settings(mixup=0.2, mixup_on="inputs", cutmix=1.0).stronger()
    assert (again.mixup, again.mixup_on, again.cutmix) == (0.2, "inputs", 1.0)


# -- what cannot be mixed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("embedder", "samples", "why"), [
    (TextEmbedder(), ["a text", "another"] * 5, "the inputs of texts are the numbers of their tokens"),
    (AudioEmbedder(), [np.zeros(16000, np.float32)] * 10, "the inputs of recordings differ in length"),
])  # fmt: skip
def test_inputs_without_pixels_get_a_clear_word(embedder, samples, why):
    for mix, message in (
        (Mixup(on="inputs"), rf"mix=Mixup\(on='inputs'\) is for images: {why}.*Use Mixup\(on='features'\)"),
        (CutMix(), rf"mix=CutMix\(\) is for images: {why}.*Use Mixup\(\), which mixes embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            FineTuneClassifier(embedder, mix=mix).fit(samples, np.arange(10) % 2)


@pytest.mark.parametrize("mix", [Mixup(on="pixels"), CutMix(-1.0), CutMix("often")], ids=str)
def test_values_out_of_range_are_errors(embedder, images, mix):
    with pytest.raises(ValueError, match=rf"parameter of {type(mix).__name__} must be"):
        _fit(embedder, images, mix=mix)


def test_a_network_that_reads_more_than_pixels_is_named(embedder, images):
    network = _source(embedder, images[0]).network
    collate = network.backbone.collate
    network.backbone.collate = lambda items: {**collate(items), "sizes": torch.ones(len(items), dtype=torch.int64)}
    samples = next(prepared_chunks(Encoder(embedder), network.backbone, images[0][:2]))
    with pytest.raises(
        ValueError, match=r"reads pixels \(torch.float32\), sizes \(torch.int64\).*Mixup\(on='features'\)"
    ):
        network.mixed_features(samples, Mix(0.5, np.array([1, 0])))
