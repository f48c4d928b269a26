"""Replay of frozen blocks: every sample is resumed as itself, once recorded, or the network runs whole."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skembed import AudioEmbedder, EmbeddingCache, FineTuneClassifier, ImageEmbedder, TextEmbedder
from skembed.backbones.base import Item
from skembed.backbones.blocks import enter_behind
from skembed.backbones.loading.load import load
from skembed.embedders.encoder import Encoder
from skembed.exceptions import DeviceWarning
from skembed.finetune import data as data_module
from skembed.finetune.activations import INPUT, MEMORY, ActivationStore
from skembed.finetune.data import TrainingData, Views, prepared_chunks
from skembed.finetune.features import NetworkSource, TableSource
from skembed.finetune.network import LinearHead, Network
from skembed.finetune.replay import FrozenBlocks, can_resume, last_frozen, planned_boundaries
from skembed.inference.extract import computing
from skembed.inference.reading import Reading
from skembed.probes.linear import Probe, Standardizer
from skembed.testing import ArrayBackbone, ArrayEmbedder, array_backbone
from tests.backbones import tiny

EMBEDDERS = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}
TEXTS = [" ".join(["the cat sat on a mat"] * n) for n in (1, 6, 2, 9, 3, 1, 7, 4)]
TEXTS = [f"{i} {text}" for i, text in enumerate(TEXTS)]


def _recorded(backbone, chunks, block, batch_size=None, budget=MEMORY):
    """A store of what a network returns behind a block."""
    store, start = ActivationStore(budget), 0
    for chunk in chunks:
        (activations,) = FrozenBlocks(backbone, Reading((block,), "mean"), batch_size).activations(chunk, [block])
        store.put(0, block, range(start, start + len(chunk)), activations)
        start += len(chunk)
    return store


def _source(network, store, block):
    return NetworkSource(network, lambda indices, view: store.get(view, block, indices))


def deep_backbone(n_features):
    return array_backbone(n_features, depth=3)


def _head(n_features, n_outputs=2):
    standardizer = Standardizer(np.zeros(n_features), np.ones(n_features))
    return LinearHead(standardizer, Probe(np.zeros((n_outputs, n_features)), np.zeros(n_outputs), 1.0))


def _network(embedder):
    return Network(
        load(embedder.spec_, torch.device("cpu"), "float32"),
        embedder._reading,
        _head(embedder._n_features_out),
        n_features=embedder._n_features_out,
        normalize=bool(embedder._normalized),
    )


def _double(layers=(2,), **shape):
    network_shape = {"n_features": 4, "width": 8, "depth": 2, **shape}
    width = network_shape["width"] * len(layers)
    reading = Reading(layers, "mean")
    return Network(array_backbone(**network_shape), reading, _head(width), n_features=width, normalize=False)


def _prepared(embedder, network, samples):
    return [sample for chunk in prepared_chunks(Encoder(embedder), network.backbone, samples) for sample in chunk]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Texts of unequal lengths, so that batches are planned in another order; the longest have several windows."""
    directory = tmp_path_factory.mktemp("bert")
    tiny.BUILDERS["bert"](directory)
    return TextEmbedder(str(directory), device="cpu", precision="float32", max_length=16, long_text="chunk").fit(TEXTS)


# -- where the network is entered -------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "n_unfrozen", "block"), [
    ((3,), 1, 2), ((3,), 2, 1), ((3,), 3, 0), ((3,), 4, INPUT), ((3,), 0, 3),
    ((1, 3), 1, 1), ((1, 3), 2, 1), ((1, 3), 3, 0), ((0, 3), 1, 0), ((3, 0), 3, 0), ((0, 3), 4, INPUT),
    ((1,), 1, 0), ((1,), 2, INPUT), ((2, 1), 1, 1),
])  # fmt: skip
def test_the_network_is_entered_below_all_that_trains_or_is_read(layers, n_unfrozen, block):
    network = _double(layers, depth=3)
    assert last_frozen(network.reading, n_unfrozen) == block
    if block != INPUT:
        samples = network.backbone.preprocess(np.eye(4), None)
        assert can_resume(network, samples, [block]) is None


@pytest.mark.parametrize(("layers", "stages", "boundaries"), [
    ((12,), (0, 1, 2, 4, 8, 13), [4, 8, 10, 11]), ((24,), (1, 2, 4, 8, 16, 25), [16, 20, 22, 23]),
    ((2,), (0, 3), []), ((1, 3), (0, 1, 2, 3, 4), [0, 1]), ((3,), (), []),
])  # fmt: skip
def test_the_highest_boundaries_of_a_plan_are_recorded(layers, stages, boundaries):
    assert planned_boundaries(Reading(layers, "mean"), stages) == boundaries


# -- filling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_unfrozen", [1, 3])
def test_only_one_chunk_is_held_besides_the_store(double_data, monkeypatch, n_unfrozen):
    build, network, _ = double_data
    data, lengths = build(), []
    boundary, original = last_frozen(network.reading, n_unfrozen), data_module.prepared_chunks
    monkeypatch.setattr(Encoder, "chunk_size", 4)

    def chunks(encoder, backbone, samples, **keywords):
        for chunk in original(encoder, backbone, samples, **keywords):
            lengths.append((9 - len(data.store.missing(0, boundary, range(9))), len(chunk)))
            yield chunk

    data.source(network, n_unfrozen)
    data.store.discard(boundary)
    monkeypatch.setattr(data_module, "prepared_chunks", chunks)
    source, _ = data.source(network, n_unfrozen)
    assert lengths == [(0, 4), (4, 4), (8, 1)]
    if boundary == INPUT:
        rows = [item.data["values"] for (item,) in source.samples(np.arange(9), 0)]
        np.testing.assert_array_equal(rows, data.samples)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("budget", [MEMORY, 0])
def test_every_sample_is_replayed_as_itself(bert, batch_size, budget):
    """Against each sample run alone, block by block. Batches go by length: their order is not that of the samples."""
    network = _network(bert)
    backbone = load(bert.spec_, torch.device("cpu"), "float32")
    samples = _prepared(bert, network, TEXTS)
    assert max(len(windows) for windows in samples) > 2
    for block in range(network.depth - 1):
        store = _recorded(backbone, [samples[:5], samples[5:]], block, batch_size, budget)
        for stored, windows in zip(store.get(0, block, range(len(samples))), samples, strict=True):
            assert [item.length for item in stored] == [item.length for item in windows]
            for kept, item in zip(stored, windows, strict=True):
                with torch.no_grad():
                    (alone,) = backbone.forward_blocks(backbone.collate([item]), [block])
                hidden = kept.data["hidden"]
                torch.testing.assert_close(hidden, alone.values[0], rtol=1e-4, atol=1e-5)
                assert hidden.untyped_storage().nbytes() == hidden.nbytes, "a view holds on to its whole batch"


@pytest.mark.parametrize("family", ["bert", "timm_resnet", "timm_vit", "wav2vec2"])
@pytest.mark.parametrize("budget", [MEMORY, 0])
def test_replayed_rows_are_those_of_the_embedder(family, budget, tmp_path, monkeypatch):
    """What training sees for a sample is what the embedder gives for it, in whichever order a batch asks."""
    tiny.BUILDERS[family](tmp_path)
    modality = tiny.MODALITY[family]
    samples = tiny.samples(modality)
    settings = {"sampling_rate": 16000} if modality == "audio" else {}
    embedder = EMBEDDERS[modality](str(tmp_path), device="cpu", precision="float32", **settings).fit(samples)
    expected = embedder.transform(samples)
    assert len(np.unique(expected.round(4), axis=0)) == len(samples)
    network = _network(embedder)
    monkeypatch.setattr(data_module, "MEMORY", budget)
    order = np.array([3, 0, 4, 1, 1])
    for replay in (False, True):
        data = TrainingData(Encoder(embedder), samples, replay=replay)
        source, replayed = data.source(network, 1)
        assert (replayed, data.store.bytes_on_disk > 0) == (replay, not budget)
        with torch.no_grad():
            found = source.features(order).numpy()
        np.testing.assert_allclose(found, expected[order], rtol=0, atol=1e-4 * np.abs(expected).max())


def test_windows_of_a_long_text_are_averaged_as_the_embedder_does(bert):
    network = _network(bert)
    with torch.no_grad():
        found = network.features(_prepared(bert, network, TEXTS)).numpy()
    np.testing.assert_allclose(found, bert.transform(TEXTS), atol=1e-5)


def test_memory_that_runs_out_while_the_prefix_is_computed_costs_no_order(bert, monkeypatch):
    network = _network(bert)
    backbone = load(bert.spec_, torch.device("cpu"), "float32")
    samples = _prepared(bert, network, TEXTS)
    expected = _recorded(backbone, [samples], 1).get(0, 1, range(len(samples)))
    original = type(backbone).advance

    def starved(self, items, batch, blocks):
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, items, batch, blocks)

    monkeypatch.setattr(type(backbone), "advance", starved)
    with pytest.warns(DeviceWarning, match="does not fit in memory"):
        recorded = _recorded(backbone, [samples], 1).get(0, 1, range(len(samples)))
    backbone.observed.largest_batch = None
    for sample, other in zip(recorded, expected, strict=True):
        for found, kept in zip(sample, other, strict=True):
            torch.testing.assert_close(found.data["hidden"], kept.data["hidden"], rtol=1e-4, atol=1e-5)


def test_half_precision_is_kept_in_half_and_trained_in_single():
    backbone = array_backbone()
    backbone.module.to(torch.bfloat16)
    samples = backbone.preprocess(np.eye(4), None)
    store = _recorded(backbone, [samples], 1, budget=0)
    ((item,),) = store.get(0, 1, [0])
    assert item.data["hidden"].dtype == torch.bfloat16
    network = _double()
    network.unfreeze(1)
    rows = _source(network, store, 1).features(np.arange(4))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, network.features(samples), rtol=0, atol=0.02)
    rows.sum().backward()
    assert network.backbone.module.layers[1].weight.grad is not None


def test_gradients_of_a_replayed_pass_are_those_of_a_plain_one(bert):
    """Also where one sample is a batch: what was computed for inference is no leaf of this graph."""
    network = _network(bert)
    samples = _prepared(bert, network, TEXTS)
    backbone = load(bert.spec_, torch.device("cpu"), "float32")
    block = last_frozen(network.reading, 1)
    store = _recorded(backbone, [samples], block)
    store.put(0, INPUT, range(len(samples)), samples)
    network.unfreeze(1)
    for indices in (np.arange(len(TEXTS)), np.array([3])):
        gradients = []
        for boundary in (INPUT, block):
            features = _source(network, store, boundary).features(indices)
            (features * torch.arange(1.0, features.shape[1] + 1)).sum().backward()
            gradients.append([p.grad.clone() for p in network.backbone.module.parameters() if p.requires_grad])
            for parameter in network.backbone.module.parameters():
                assert (parameter.grad is not None) == parameter.requires_grad
                parameter.grad = None
        for first, second in zip(*gradients, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


# -- networks that cannot be resumed ----------------------------------------------------------------------


def _swapped(original):
    def advance(self, items, batch, blocks):
        return [[found[1], found[0], *found[2:]] for found in original(self, items, batch, blocks)]

    return advance


def _too_deep(original):
    """Hidden states of the block above, said to be of this one."""

    def advance(self, items, batch, blocks):
        found = original(self, items, batch, [block + 1 for block in blocks])
        return [
            [Item({**item.data, "block": block}, item.length) for item in above]
            for block, above in zip(blocks, found, strict=True)
        ]

    return advance


def _without_numbers(original):
    def advance(self, items, batch, blocks):
        return [
            [Item({**i.data, "hidden": i.data["hidden"] * float("nan")}, i.length) for i in found]
            for found in original(self, items, batch, blocks)
        ]

    return advance


@pytest.mark.parametrize("mutant", [_swapped, _too_deep, _without_numbers])
def test_a_prefix_that_gives_other_rows_is_found_out(mutant, monkeypatch):
    network = _double()
    samples = network.backbone.preprocess(np.eye(4), None)
    assert can_resume(network, samples, [0]) is None
    monkeypatch.setattr(ArrayBackbone, "advance", mutant(ArrayBackbone.advance))
    assert can_resume(network, samples, [0]) == "its rows differ when it is entered behind block 0"


@pytest.mark.parametrize(("error", "answer"), [
    (NotImplementedError("Blocks hand on more."), "Blocks hand on more."),
    (RuntimeError("shapes"), r"entering it behind block 1 failed (RuntimeError: shapes)"),
    (KeyError("hidden"), r"entering it behind block 1 failed (KeyError: 'hidden')"),
])  # fmt: skip
def test_a_network_that_cannot_be_entered_says_why(error, answer, monkeypatch):
    def advance(self, items, batch, blocks):
        raise error

    network = _double()
    monkeypatch.setattr(ArrayBackbone, "advance", advance)
    assert can_resume(network, network.backbone.preprocess(np.eye(4), None), [1]) == answer


def test_trying_changes_nothing_of_the_network():
    network = _double()
    network.unfreeze(2)
    before = {name: value.clone() for name, value in network.backbone.module.state_dict().items()}
    assert can_resume(network, network.backbone.preprocess(np.eye(4), None), [0]) is None
    for name, value in network.backbone.module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("family", ["t5_encoder", "hf_swin"])
def test_families_that_hand_on_more_than_their_hidden_state_say_so(family, tmp_path):
    tiny.BUILDERS[family](tmp_path)
    modality = tiny.MODALITY[family]
    samples = tiny.samples(modality)
    embedder = EMBEDDERS[modality](str(tmp_path), device="cpu", precision="float32").fit(samples)
    network = _network(embedder)
    assert can_resume(network, _prepared(embedder, network, samples), [1])


# -- the data of one fit ----------------------------------------------------------------------------------


@pytest.fixture
def double_data():
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=None).fit(X)

    def build(**parameters):
        return TrainingData(Encoder(embedder), list(X), **{"replay": True, **parameters})

    return build, _network(embedder), embedder.transform(X)


@pytest.fixture
def runs(monkeypatch):
    """Boundaries and number of samples of each pass that records activations."""
    passes, original = [], FrozenBlocks.activations

    def running(self, samples, boundaries, report=None):
        if report is not None:
            passes.append((boundaries, len(samples)))
        return original(self, samples, boundaries, report)

    monkeypatch.setattr(FrozenBlocks, "activations", running)
    return passes


@pytest.mark.parametrize(("n_unfrozen", "replay", "kind", "replayed"), [
    (0, True, TableSource, True),
    (0, False, NetworkSource, False),
    (1, True, NetworkSource, True),
    (1, False, NetworkSource, False),
    (3, True, NetworkSource, False),
])  # fmt: skip
def test_sources_give_the_embedder_s_rows(double_data, n_unfrozen, replay, kind, replayed):
    build, network, expected = double_data
    source, told = build(replay=replay).source(network, n_unfrozen)
    assert (type(source), told) == (kind, replayed)
    order = np.array([8, 0, 3, 3])
    with torch.no_grad():
        np.testing.assert_allclose(source.features(order).numpy(), expected[order], atol=1e-5)
    if kind is NetworkSource:
        ((item,),) = source.samples(np.array([0]), 0)
        assert ("hidden" in item.data) == replayed


@pytest.mark.parametrize(("stages", "expected"), [((), [[1], [0]]), ((0, 1), [[1], [0]]), ((0, 1, 2, 3), [[0, 1]])])
def test_activations_are_computed_once_per_boundary(double_data, runs, stages, expected):
    """In one pass for the stages that are known to follow, and never again where a stage is gone through once more."""
    build, network, _ = double_data
    data = build(stages=stages)
    for n_unfrozen in (1, 1, 2, 2, 3, 3, 1):
        data.source(network, n_unfrozen)
    assert runs == [(boundaries, 9) for boundaries in expected]


@pytest.mark.parametrize("stages", [(0, 1, 2, 3), (1, 2)])
def test_all_boundaries_are_recorded_while_samples_are_embedded(double_data, runs, stages):
    build, network, expected = double_data
    data = build(stages=stages)
    np.testing.assert_allclose(data.embeddings, expected, atol=1e-6)
    assert data.embeddings is data.embeddings
    for n_unfrozen in (1, 2, 1):
        assert data.source(network, n_unfrozen)[1]
    assert runs == [([0, 1], 9)]


def test_a_prefix_that_differs_is_not_used_and_that_is_told_once(double_data, monkeypatch):
    build, network, expected = double_data
    data = build()
    monkeypatch.setattr(ArrayBackbone, "advance", _swapped(ArrayBackbone.advance))
    for n_unfrozen in (1, 2):
        source, replayed = data.source(network, n_unfrozen)
        assert not replayed
        with torch.no_grad():
            np.testing.assert_allclose(source.features(np.arange(9)).numpy(), expected, atol=1e-5)
    (note,) = data.notes
    assert note.startswith("The frozen blocks were computed in every epoch: its rows differ")


# -- embedding and advancing in one pass ------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, "memory"])
def test_one_pass_gives_the_rows_and_the_activations(bert, cache, runs):
    """Against each sample run alone; a text that occurs twice is recorded with the others that are missing."""
    embedder = clone(bert).set_params(cache=None if cache is None else EmbeddingCache()).fit(TEXTS)
    samples = [*TEXTS[:3], TEXTS[1], *TEXTS[3:]]
    network = _network(embedder)
    stages = range(network.depth + 1)
    data = TrainingData(Encoder(embedder), samples, replay=True, stages=stages)
    np.testing.assert_allclose(data.embeddings, bert.transform(samples), rtol=0, atol=1e-5)
    blocks = [network.depth - 1 - n for n in reversed(stages[1:-1])]
    assert data.store.boundaries == blocks
    for block in blocks:
        assert data.store.missing(0, block, range(9)) == [3]
    for n_unfrozen in stages[1:-1]:
        block = network.depth - 1 - n_unfrozen
        source, replayed = data.source(network, n_unfrozen)
        assert replayed
        # On its way to the highest block the text that was left out has passed the others.
        assert runs == [(blocks, 8), (blocks, 1)]
        prepared = _prepared(embedder, network, samples)
        for stored, windows in zip(source.samples(np.arange(9), 0), prepared, strict=True):
            for kept, item in zip(stored, windows, strict=True):
                with torch.no_grad():
                    (alone,) = network.backbone.forward_blocks(network.backbone.collate([item]), [block])
                torch.testing.assert_close(kept.data["hidden"], alone.values[0], rtol=1e-4, atol=1e-5)


def test_frozen_blocks_see_each_sample_once_in_a_whole_fit():
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=None).fit(X)
    shared, seen = load(embedder.spec_, torch.device("cpu"), "float32").module, []
    hook = shared.layers[0].register_forward_hook(lambda module, inputs, outputs: seen.append(len(inputs[0])))
    model = FineTuneClassifier(embedder, strategy="partial", max_epochs=2, refit=False, random_state=0)
    try:
        model.fit(X, np.arange(60) % 2)
    finally:
        hook.remove()
    # Four samples both ways on the shared network and on the one that trains, and then each sample; where the network
    # is entered above, the layer is handed a single row that it does not compute.
    assert sum(n for n in seen if n > 1) == 60 + 4 * 4


@pytest.mark.parametrize("mutant", [_swapped, _too_deep, _without_numbers])
def test_a_network_that_would_give_other_rows_is_embedded_as_ever(double_data, monkeypatch, runs, mutant):
    build, _, expected = double_data
    data = build(stages=[0, 1, 2])
    monkeypatch.setattr(ArrayBackbone, "advance", mutant(ArrayBackbone.advance))
    np.testing.assert_allclose(data.embeddings, expected, atol=1e-6)
    assert not runs
    assert not data.store.nbytes


@pytest.mark.parametrize(("n_unfrozen", "cached"), [(0, False), (3, False), (1, True)])
def test_nothing_is_recorded_where_no_block_is_frozen_or_all_rows_are_known(n_unfrozen, cached):
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=EmbeddingCache() if cached else None).fit(X)
    expected = embedder.transform(X)
    data = TrainingData(Encoder(embedder), list(X), replay=True, stages=[n_unfrozen])
    np.testing.assert_allclose(data.embeddings, expected, atol=1e-6)
    assert not data.store.nbytes


def test_a_shared_network_is_resumed_only_where_no_other_thread_can_be_in_it(double_data, monkeypatch):
    """On a processor one thread computes at a time; elsewhere another may be at the blocks that are passed over."""
    build, _, _ = double_data
    monkeypatch.setattr(Encoder, "device", torch.device("cuda"))
    data = build(stages=[1])
    assert len(data.embeddings) == 9
    assert not data.store.nbytes


def test_a_network_is_not_copied_while_another_thread_is_in_it_behind_a_block():
    """The copy would pass over the same blocks for good."""
    X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=None).fit(X)
    shared = load(embedder.spec_, torch.device("cpu"), "float32")
    copies = []
    copying = threading.Thread(target=lambda: copies.append(_network(embedder)))
    with computing(torch.device("cpu")), enter_behind(list(shared.module.layers), 1, torch.zeros(5, 8)):
        copying.start()
        copying.join(0.3)
        assert not copies
    copying.join(30)
    (network,) = copies
    with torch.no_grad():
        rows = network.features(shared.preprocess(X, None)).numpy()
    np.testing.assert_allclose(rows, embedder.transform(X), atol=1e-6)


@pytest.mark.parametrize(("units", "stored"), [
    (27, {0: 9, 1: 9, 2: 9}), (26.9, {0: 8, 1: 9, 2: 9}), (17.9, {1: 8, 2: 9}), (8.9, {2: 8}), (0, {2: 0}),
])  # fmt: skip
def test_recording_stays_within_the_budget_and_the_highest_boundary_comes_first(monkeypatch, units, stored):
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(deep_backbone, precision="float32", cache=None).fit(X)
    monkeypatch.setattr(Encoder, "chunk_size", 4)
    monkeypatch.setattr(data_module, "MEMORY", int(units * 8 * 4))
    data = TrainingData(Encoder(embedder), list(X), replay=True, stages=(0, 1, 2, 3, 4))
    np.testing.assert_allclose(data.embeddings, embedder.transform(X), atol=1e-6)
    store = data.store
    assert {block: 9 - len(store.missing(0, block, range(9))) for block in store.boundaries} == stored
    assert store.nbytes == sum(stored.values()) * 8 * 4
    assert not store.bytes_on_disk


def test_all_that_is_stored_stays_within_the_budget(double_data, monkeypatch, runs):
    """Boundaries that a second fit returns to are stored as long as there is room; beyond it there is the disk."""
    build, network, _ = double_data
    size = 9 * 8 * 4
    for budget, expected in (
        (2 * size, [([0, 1], 9)]),
        (2 * size - 1, [([0, 1], 9), ([0], 1), ([1], 9)]),
        (size // 2, [([0, 1], 9), ([0], 9), ([1], 9)]),
    ):
        monkeypatch.setattr(data_module, "MEMORY", budget)
        runs.clear()
        data = build(stages=(0, 1, 2))
        for n_unfrozen in (1, 2, 1):
            source, _ = data.source(network, n_unfrozen)
            assert data.store.nbytes <= budget
            assert all(item.data["block"] == 2 - n_unfrozen for (item,) in source.samples(np.arange(9), 0))
        assert runs == expected


def test_what_was_stored_is_discarded_when_replay_is_given_up(double_data, monkeypatch):
    build, network, _ = double_data
    data = build(stages=(0, 1, 2))
    data.source(network, 1)
    assert data.store.nbytes == 2 * 9 * 8 * 4
    monkeypatch.setattr(ArrayBackbone, "advance", _swapped(ArrayBackbone.advance))
    assert not data.source(network, 2)[1]
    assert data.store.boundaries == [INPUT]
    (note,) = data.notes
    assert "from then on" in note


def test_what_no_stage_will_ask_for_any_more_is_discarded(double_data):
    """As where a fit is resumed from a checkpoint in a later stage."""
    build, network, _ = double_data
    data = build(stages=(0, 1, 2))
    assert data.embeddings is not None
    assert data.store.boundaries == [0, 1]
    data.source(network, 2)
    assert data.store.boundaries == [0]


@pytest.mark.parametrize("units", [0.5, 1.5, 2.5])
def test_rows_that_were_known_in_part_stay_within_the_budget(monkeypatch, units, runs):
    """The rows of every other sample are in the cache; the others are embedded and recorded."""
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=EmbeddingCache()).fit(X)
    embedder.transform(X[1::2])
    size, highest, original = 8 * 4, [], ActivationStore.put
    budget = int(units * 9 * size)
    monkeypatch.setattr(data_module, "MEMORY", budget)

    def putting(store, *args, **keywords):
        original(store, *args, **keywords)
        highest.append(store.nbytes)

    monkeypatch.setattr(ActivationStore, "put", putting)
    data = TrainingData(Encoder(embedder), list(X), replay=True, stages=(0, 1, 2))
    assert len(data.embeddings) == 9
    source, replayed = data.source(_network(embedder), 1)
    assert replayed
    assert [n for _, n in runs] == [5, 4 if units > 0.5 else 5]
    assert len(source.samples(np.arange(9), 0)) == 9
    assert max(highest) <= budget
    # The lower boundary gives way to the one that the stage trains on.
    assert data.store.bytes_on_disk == max(0, 9 * size - budget // size * size)


def test_each_view_has_what_the_frozen_blocks_return_for_it(double_data):
    """On the way to the first stage's block what the later stages need is kept, view by view."""
    build, network, _ = double_data

    class Shifted:
        changes_items = False

        def on_sample(self, sample, rng, sampling_rate=None):
            return np.asarray(sample) + rng.normal()

    views = Views(Shifted(), 0, 3)
    data = build(stages=(0, 1, 2), views=views)
    for n_unfrozen in (1, 2):
        block = 2 - n_unfrozen
        source, replayed = data.source(network, n_unfrozen)
        assert replayed
        plain, _ = build(replay=False, views=views).source(network, n_unfrozen)
        hidden = []
        for view in range(3):
            stored = [item.data["hidden"] for (item,) in source.samples(np.arange(9), view)]
            for (item,), found in zip(plain.samples(np.arange(9), view), stored, strict=True):
                with torch.no_grad():
                    (alone,) = network.backbone.forward_blocks(network.backbone.collate([item]), [block])
                torch.testing.assert_close(found, alone.values[0, 0])
            # Later epochs go through the same views in turn.
            later = [item.data["hidden"] for (item,) in source.samples(np.arange(9), view + 3)]
            assert all(torch.equal(a, b) for a, b in zip(stored, later, strict=True))
            hidden.append(torch.stack(stored))
        assert min((a - b).abs().max() for a, b in itertools.pairwise(hidden)) > 1e-2
