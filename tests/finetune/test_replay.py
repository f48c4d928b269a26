"""The replayed prefix: every sample comes back as it was kept, from memory or from the disk, and is its own."""

from __future__ import annotations

import itertools
import threading
import warnings
from pathlib import Path

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
from skembed.finetune import replay as replay_module
from skembed.finetune.data import TrainingData, Views, embed_first, prepared_chunks
from skembed.finetune.features import NetworkSource, TableSource
from skembed.finetune.network import Head, Network
from skembed.finetune.replay import ItemStore, Prefixes, agree, fill_store, replay_block, run_up_to
from skembed.inference.bounded_map import count_bytes
from skembed.inference.extract import computing
from skembed.inference.reading import Reading
from skembed.probes.linear import Probe, Standardizer
from skembed.testing import ArrayBackbone, ArrayEmbedder, array_backbone
from tests.backbones import tiny

EMBEDDERS = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}
TEXTS = [" ".join(["the cat sat on a mat"] * n) for n in (1, 6, 2, 9, 3, 1, 7, 4)]
TEXTS = [f"{i} {text}" for i, text in enumerate(TEXTS)]

#: It answers as a full disk does.
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def _up_to(backbone, block, batch_size=None):
    return lambda chunk: run_up_to(backbone, chunk, [block], batch_size)[0]


def _head(n_features, n_outputs=2):
    standardizer = Standardizer(np.zeros(n_features), np.ones(n_features))
    return Head(standardizer, Probe(np.zeros((n_outputs, n_features)), np.zeros(n_outputs), 1.0))


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


# -- the store --------------------------------------------------------------------------------------------


def _values():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 5, generator=generator),
        torch.randn(2, 3, generator=generator).to(torch.bfloat16),
        torch.randn(7, generator=generator).to(torch.float16),
        torch.arange(6).reshape(2, 3),
        torch.tensor([True, False, True]),
        torch.tensor(2.5, dtype=torch.float64),
        torch.randn(4, 3, generator=generator).T,
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(5, dtype=np.int64),
        np.array([[1, 2, 3]], dtype=np.uint8),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(8, dtype=np.float32)[1::2],
        7,
        "a word",
        [1, 2],
    ]


def _sample(value, n_windows=1):
    return [Item({"value": value, "window": i}, length=3 + i, truncated=bool(i % 2)) for i in range(n_windows)]


def _assert_same(found, value):
    assert type(found) is type(value)
    if isinstance(value, torch.Tensor):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert torch.equal(found, value)
    elif isinstance(value, np.ndarray):
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
    else:
        assert found == value


@pytest.mark.parametrize("budget", [replay_module.MEMORY, 150, 0])
def test_what_is_kept_comes_back(budget):
    store, values = ItemStore(budget), _values()
    for value in values:
        store.append(_sample(value, n_windows=2))
    assert len(store) == len(values)
    assert (store.bytes_on_disk > 0) == (budget < replay_module.MEMORY)
    # In any order, and more than once.
    for index in [*reversed(range(len(values))), 0, 3]:
        found = store[index]
        assert [item.length for item in found] == [3, 4]
        assert [item.truncated for item in found] == [False, True]
        assert [item.data["window"] for item in found] == [0, 1]
        for item in found:
            _assert_same(item.data["value"], values[index])


def test_no_more_than_the_budget_is_held_in_memory():
    store = ItemStore(budget=1000)
    rows = [np.full(25, i, dtype=np.float32) for i in range(30)]
    for row in rows:
        store.append([Item({"values": row}, 1)])
    # Of 100 bytes each, ten fit.
    assert store.bytes_on_disk == 20 * 100
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(store[i][0].data["values"], row)


def test_what_is_written_after_the_first_reading_is_read_too():
    store = ItemStore(budget=0)
    for i in range(5):
        store.append([Item({"values": torch.full((4,), float(i))}, 1)])
        assert [float(store[j][0].data["values"][0]) for j in range(i + 1)] == list(range(i + 1))


def test_what_comes_back_may_be_changed_without_changing_what_is_kept():
    store = ItemStore(budget=0)
    store.append([Item({"tensor": torch.ones(3), "array": np.ones(3, dtype=np.float32)}, 1)])
    for value in store[0][0].data.values():
        value[:] = 5
    for value in store[0][0].data.values():
        assert float(value.sum()) == 3


def test_the_file_goes_away_with_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = ItemStore(budget=0)
    store.append([Item({"values": torch.ones(1000)}, 1)])
    assert store.bytes_on_disk == 4000
    # Unlinked at once: not even a killed process leaves it behind.
    assert list(tmp_path.iterdir()) == []


@needs_full
def test_a_full_disk_is_an_error(monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: SIM115
    store = ItemStore(budget=100)
    store.append([Item({"values": torch.ones(20)}, 1)])
    with pytest.raises(OSError, match="No space left"):
        store.append([Item({"values": torch.ones(100_000)}, 1)])


@needs_full
def test_a_full_disk_is_an_error_of_what_was_kept_and_not_of_what_is_read(monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: SIM115
    backbone = array_backbone()
    with pytest.raises(OSError, match="No space left"):
        fill_store(ItemStore(budget=0), iter([backbone.preprocess(np.eye(4), None)]))


def test_an_empty_array_comes_back():
    store = ItemStore(budget=0)
    store.append([Item({"values": torch.zeros(0, 3), "more": torch.ones(1)}, 0)])
    assert store[0][0].data["values"].shape == (0, 3)


def test_an_array_that_was_turned_round_comes_back():
    store = ItemStore(budget=0)
    store.append([Item({"values": np.arange(3.0)[::-1]}, 1)])
    np.testing.assert_array_equal(store[0][0].data["values"], [2, 1, 0])


def test_an_array_that_cannot_be_written_comes_back_without_a_warning():
    value = np.arange(3.0)
    value.flags.writeable = False
    store = ItemStore(budget=0)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store.append([Item({"values": value}, 1)])
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(store[0][0].data["values"], value)


# -- where the network is entered -------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "n_unfrozen", "block"), [
    ((3,), 1, 2), ((3,), 2, 1), ((3,), 3, 0), ((3,), 4, None), ((3,), 0, 3),
    ((1, 3), 1, 1), ((1, 3), 2, 1), ((1, 3), 3, 0), ((0, 3), 1, 0), ((3, 0), 3, 0), ((0, 3), 4, None),
    ((1,), 1, 0), ((1,), 2, None), ((2, 1), 1, 1),
])  # fmt: skip
def test_the_network_is_entered_below_all_that_trains_or_is_read(layers, n_unfrozen, block):
    network = _double(layers, depth=3)
    assert replay_block(network, n_unfrozen) == block
    if block is not None:
        samples = network.backbone.preprocess(np.eye(4), None)
        assert agree(network, samples, block) is None


# -- filling ----------------------------------------------------------------------------------------------


def test_samples_are_kept_as_they_are_without_a_block():
    backbone = array_backbone()
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    chunks = iter([backbone.preprocess(rows[:3], None), backbone.preprocess(rows[3:], None)])
    store = fill_store(ItemStore(), chunks)
    assert len(store) == 5
    np.testing.assert_array_equal([store[i][0].data["values"] for i in range(5)], rows)


def test_only_one_chunk_is_held_besides_the_store():
    backbone, store, lengths = array_backbone(), ItemStore(), []

    def chunks():
        for _ in range(3):
            lengths.append(len(store))
            yield backbone.preprocess(np.eye(4), None)

    fill_store(store, chunks(), advance=_up_to(backbone, 0))
    assert lengths == [0, 4, 8]


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("budget", [replay_module.MEMORY, 0])
def test_every_sample_is_replayed_as_itself(bert, batch_size, budget):
    """Against each sample run alone, block by block. Batches go by length: their order is not that of the samples."""
    network = _network(bert)
    backbone = load(bert.spec_, torch.device("cpu"), "float32")
    samples = _prepared(bert, network, TEXTS)
    assert max(len(windows) for windows in samples) > 2
    for block in range(network.depth - 1):
        chunks = iter([samples[:5], samples[5:]])
        store = fill_store(ItemStore(budget), chunks, advance=_up_to(backbone, block, batch_size))
        assert len(store) == len(samples)
        for index, windows in enumerate(samples):
            assert [item.length for item in store[index]] == [item.length for item in windows]
            for kept, item in zip(store[index], windows, strict=True):
                with torch.no_grad():
                    (alone,) = backbone.forward_blocks(backbone.collate([item]), [block])
                hidden = kept.data["hidden"]
                torch.testing.assert_close(hidden, alone.values[0], rtol=1e-4, atol=1e-5)
                assert hidden.untyped_storage().nbytes() == hidden.nbytes, "a view holds on to its whole batch"


@pytest.mark.parametrize("family", ["bert", "timm_resnet", "timm_vit", "wav2vec2"])
@pytest.mark.parametrize("budget", [replay_module.MEMORY, 0])
def test_replayed_rows_are_those_of_the_embedder(family, budget, tmp_path):
    """What training sees for a sample is what the embedder gives for it, in whichever order a batch asks."""
    tiny.BUILDERS[family](tmp_path)
    modality = tiny.MODALITY[family]
    samples = tiny.samples(modality)
    settings = {"sampling_rate": 16000} if modality == "audio" else {}
    embedder = EMBEDDERS[modality](str(tmp_path), device="cpu", precision="float32", **settings).fit(samples)
    expected = embedder.transform(samples)
    assert len(np.unique(expected.round(4), axis=0)) == len(samples)
    network = _network(embedder)
    plain = NetworkSource(
        network, [fill_store(ItemStore(budget), prepared_chunks(Encoder(embedder), network.backbone, samples))]
    )
    replayed = NetworkSource(
        network,
        [
            fill_store(
                ItemStore(budget),
                prepared_chunks(Encoder(embedder), network.backbone, samples),
                advance=_up_to(embedder._load(), replay_block(network, 1)),
            )
        ],
    )
    order = np.array([3, 0, 4, 1, 1])
    for source in (plain, replayed):
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
    expected = fill_store(ItemStore(), iter([samples]), advance=_up_to(backbone, 1))
    original = type(backbone).advance

    def starved(self, items, batch, blocks):
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, items, batch, blocks)

    monkeypatch.setattr(type(backbone), "advance", starved)
    with pytest.warns(DeviceWarning, match="Out of memory"):
        store = fill_store(ItemStore(), iter([samples]), advance=_up_to(backbone, 1))
    backbone.observed.largest_batch = None
    for index in range(len(samples)):
        for found, kept in zip(store[index], expected[index], strict=True):
            torch.testing.assert_close(found.data["hidden"], kept.data["hidden"], rtol=1e-4, atol=1e-5)


def test_half_precision_is_kept_in_half_and_trained_in_single():
    backbone = array_backbone()
    backbone.module.to(torch.bfloat16)
    samples = backbone.preprocess(np.eye(4), None)
    store = fill_store(ItemStore(0), iter([samples]), advance=_up_to(backbone, 1))
    assert store[0][0].data["hidden"].dtype == torch.bfloat16
    network = _double()
    network.unfreeze(1)
    rows = NetworkSource(network, [store]).features(np.arange(4))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, network.features(samples), rtol=0, atol=0.02)
    rows.sum().backward()
    assert network.backbone.module.layers[1].weight.grad is not None


def test_gradients_of_a_replayed_pass_are_those_of_a_plain_one(bert):
    """Also where one sample is a batch: what was computed for inference is no leaf of this graph."""
    network = _network(bert)
    samples = _prepared(bert, network, TEXTS)
    backbone = load(bert.spec_, torch.device("cpu"), "float32")
    store = fill_store(ItemStore(), iter([samples]), advance=_up_to(backbone, replay_block(network, 1)))
    plain = fill_store(ItemStore(), iter([samples]))
    network.unfreeze(1)
    for indices in (np.arange(len(TEXTS)), np.array([3])):
        gradients = []
        for held in (plain, store):
            features = NetworkSource(network, [held]).features(indices)
            (features * torch.arange(1.0, features.shape[1] + 1)).sum().backward()
            gradients.append([p.grad.clone() for p in network.backbone.module.parameters() if p.requires_grad])
            for parameter in network.backbone.module.parameters():
                assert (parameter.grad is not None) == parameter.requires_grad
                parameter.grad = None
        for first, second in zip(*gradients, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


# -- agreeing ---------------------------------------------------------------------------------------------


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
    assert agree(network, samples, 0) is None
    monkeypatch.setattr(ArrayBackbone, "advance", mutant(ArrayBackbone.advance))
    assert agree(network, samples, 0) == "its rows differ when it is entered behind block 0"


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
    assert agree(network, network.backbone.preprocess(np.eye(4), None), 1) == answer


def test_trying_changes_nothing_of_the_network():
    network = _double()
    network.unfreeze(2)
    before = {name: value.clone() for name, value in network.backbone.module.state_dict().items()}
    assert agree(network, network.backbone.preprocess(np.eye(4), None), 0) is None
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
    assert agree(network, _prepared(embedder, network, samples), 1)


# -- the data of one fit ----------------------------------------------------------------------------------


@pytest.fixture
def double_data():
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32").fit(X)

    def build(**parameters):
        return TrainingData(Encoder(embedder), list(X), embedder.transform(X), **{"replay": True, **parameters})

    return build, _network(embedder), embedder.transform(X)


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
        assert ("hidden" in source.stores[0][0][0].data) == replayed


@pytest.mark.parametrize(("stages", "runs"), [((), [[1], [0]]), ((0, 1), [[1], [0]]), ((0, 1, 2, 3), [[0, 1]])])
def test_a_prefix_is_computed_once_a_block(double_data, monkeypatch, stages, runs):
    """In one pass for the stages that are known to follow, and never again where a stage is gone through once more."""
    build, network, _ = double_data
    data, blocks = build(stages=stages), []
    original = replay_module.run_up_to

    def running(backbone, chunk, wanted, batch_size, report=None):
        blocks.append(wanted)
        return original(backbone, chunk, wanted, batch_size, report)

    monkeypatch.setattr(replay_module, "run_up_to", running)
    stores = [data.source(network, n_unfrozen)[0].stores[0] for n_unfrozen in (1, 1, 2, 2, 3, 3, 1)]
    assert blocks == runs
    assert stores[6] is stores[0]
    assert stores[0] is stores[1]
    assert stores[2] is stores[3]
    assert stores[4] is stores[5]
    assert stores[0] is not stores[2]


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
def test_one_pass_gives_the_rows_and_what_the_frozen_blocks_return(bert, cache):
    """Against each sample run alone; a text that occurs twice is advanced with the others that are left."""
    embedder = clone(bert).set_params(cache=None if cache is None else EmbeddingCache()).fit(TEXTS)
    samples = [*TEXTS[:3], TEXTS[1], *TEXTS[3:]]
    network = _network(embedder)
    stages = range(network.depth + 1)
    rows, first = embed_first(Encoder(embedder), samples, stages)
    np.testing.assert_allclose(rows, bert.transform(samples), rtol=0, atol=1e-5)
    data = TrainingData(Encoder(embedder), samples, rows, replay=True, first=first)
    assert sorted(first.known) == [network.depth - 1 - n for n in reversed(stages[1:-1])]
    for n_unfrozen in stages[1:-1]:
        block = network.depth - 1 - n_unfrozen
        # On its way to the highest block the text that was left out has passed the others.
        assert set(first.known[block]) == ({0, 1, 2, 4, 5, 6, 7, 8} if n_unfrozen == 1 else set(range(9)))
        source, replayed = data.source(network, n_unfrozen)
        assert replayed
        assert block not in first.known, "what is in the store is not held twice"
        for index, windows in enumerate(_prepared(embedder, network, samples)):
            for kept, item in zip(source.stores[0][index], windows, strict=True):
                with torch.no_grad():
                    (alone,) = network.backbone.forward_blocks(network.backbone.collate([item]), [block])
                torch.testing.assert_close(kept.data["hidden"], alone.values[0], rtol=1e-4, atol=1e-5)


def test_frozen_blocks_see_each_sample_once_in_a_whole_fit():
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=None).fit(X)
    shared, seen = load(embedder.spec_, torch.device("cpu"), "float32").module, []
    hook = shared.layers[0].register_forward_hook(lambda module, inputs, outputs: seen.append(len(inputs[0])))
    model = FineTuneClassifier(embedder, strategy="partial", n_unfrozen=1, max_epochs=2, refit=False, random_state=0)
    try:
        model.fit(X, np.arange(60) % 2)
    finally:
        hook.remove()
    # Four samples both ways on the shared network and on the one that trains, and then each sample; where the network
    # is entered above, the layer is handed a single row that it does not compute.
    assert sum(n for n in seen if n > 1) == 60 + 4 * 4


def test_a_network_that_would_give_other_rows_is_embedded_as_ever(monkeypatch):
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=None).fit(X)
    expected = embedder.transform(X)
    for mutant in (_swapped, _too_deep, _without_numbers):
        with monkeypatch.context() as patch:
            patch.setattr(ArrayBackbone, "advance", mutant(ArrayBackbone.advance))
            rows, first = embed_first(Encoder(embedder), list(X), [0, 1, 2])
        assert first is None
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize(("n_unfrozen", "known"), [(0, False), (3, False), (1, True)])
def test_nothing_is_kept_where_no_block_is_frozen_or_all_rows_are_known(n_unfrozen, known):
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=EmbeddingCache()).fit(X)
    expected = embedder.transform(X) if known else clone(embedder).set_params(cache=None).fit(X).transform(X)
    rows, first = embed_first(Encoder(embedder), list(X), [n_unfrozen])
    assert first is None
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_a_shared_network_is_entered_where_no_other_thread_can_be_in_it(monkeypatch):
    """On a processor one thread computes at a time; elsewhere another may be at the blocks that are passed over."""
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    embedder = ArrayEmbedder(precision="float32", cache=None).fit(X)
    monkeypatch.setattr(Encoder, "device", torch.device("cuda"))
    assert embed_first(Encoder(embedder), list(X), [1])[1] is None


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


def test_no_more_than_a_budget_is_kept_on_the_way_and_the_highest_block_comes_first(bert):
    backbone = load(bert.spec_, torch.device("cpu"), "float32")
    samples = _prepared(bert, _network(bert), TEXTS)
    sizes = [count_bytes(sample) for sample in _up_to(backbone, 1)(samples)]
    for budget, kept in (
        (3 * sum(sizes), {0: 8, 1: 8, 2: 8}),
        (3 * sum(sizes) - 1, {0: 7, 1: 8, 2: 8}),
        (2 * sum(sizes) - 1, {1: 7, 2: 8}),
        (sum(sizes) - 1, {2: 7}),
        (0, {2: 0}),
    ):
        prefixes = Prefixes(backbone, [0, 1, 2], budget=budget)
        advanced = [*prefixes.first(samples[:5], range(10, 15)), *prefixes.first(samples[5:], range(15, 18))]
        assert len(advanced) == 8
        assert {block: len(known) for block, known in prefixes.known.items()} == kept
        assert prefixes.nbytes == sum(count_bytes(own) for known in prefixes.known.values() for own in known.values())
        assert prefixes.nbytes <= budget
        for position, sample in prefixes.known[2].items():
            assert sample is advanced[position - 10]
        held = prefixes.nbytes
        taken = prefixes.take(2)
        assert prefixes.nbytes == held - sum(sizes[position - 10] for position in taken)
        assert prefixes.take(2) == {}


def test_all_that_is_held_stays_within_a_budget(double_data, monkeypatch):
    """Blocks that a later round comes back to are held as long as there is room; beyond it there is the disk."""
    build, network, _ = double_data
    runs, original = [], replay_module.run_up_to
    monkeypatch.setattr(replay_module, "run_up_to", lambda *args: runs.append(args[2]) or original(*args))
    size = 9 * 8 * 4
    for budget, expected in ((2 * size, [[0, 1]]), (2 * size - 1, [[0, 1], [0], [1]]), (size // 2, [[0, 1], [0], [1]])):
        monkeypatch.setattr("skembed.finetune.data.MEMORY", budget)
        runs.clear()
        data = build(stages=(0, 1, 2))
        for n_unfrozen in (1, 2, 1):
            source, _ = data.source(network, n_unfrozen)
            held = sum(store.bytes_in_memory for stores in data._held.values() for store in stores)
            assert held + sum(each.nbytes for each in data._prefixes.values()) <= budget
            assert all(source.stores[0][i][0].data["block"] == 2 - n_unfrozen for i in range(9))
        assert runs == expected


def test_what_was_held_goes_where_replay_is_given_up(double_data, monkeypatch):
    build, network, _ = double_data
    first = Prefixes(network.base, [0, 1])
    first.first(network.backbone.preprocess(np.eye(9, 4), None), range(9))
    data = build(stages=(0, 1, 2), first=first)
    data.source(network, 1)
    assert data._held
    assert first.nbytes
    monkeypatch.setattr(ArrayBackbone, "advance", _swapped(ArrayBackbone.advance))
    assert not data.source(network, 2)[1]
    assert not data._held
    assert not first.nbytes
    (note,) = data.notes
    assert "from then on" in note


def test_what_no_stage_will_ask_for_any_more_is_not_held(double_data):
    """As where a fit goes on from a checkpoint in a later stage."""
    build, network, _ = double_data
    first = Prefixes(network.base, [0, 1])
    first.first(network.backbone.preprocess(np.eye(9, 4), None), range(9))
    build(stages=(0, 1, 2), first=first).source(network, 2)
    assert not first.nbytes


@pytest.mark.parametrize("units", [0.5, 1.5, 2.5])
def test_rows_that_were_known_in_part_stay_within_the_budget(double_data, monkeypatch, units):
    """Half of the samples had no rows, were embedded, and are known behind the blocks; the store begins with them."""
    build, network, _ = double_data
    size, highest = 8 * 4, []
    budget = int(units * 9 * size)
    monkeypatch.setattr("skembed.finetune.data.MEMORY", budget)
    first = Prefixes(network.base, [0, 1], budget=budget)
    first.first(network.backbone.preprocess(np.eye(9, 4)[:5], None), [0, 2, 4, 6, 8])
    data = build(stages=(0, 1, 2), first=first)
    original = replay_module.ItemStore.append

    def appending(store, sample):
        original(store, sample)
        highest.append(store.bytes_in_memory + first.nbytes)

    monkeypatch.setattr(replay_module.ItemStore, "append", appending)
    source, _ = data.source(network, 1)
    assert len(source.stores[0]) == 9
    assert max(highest) <= budget
    # The lower block gives way to what is trained on.
    assert source.stores[0].bytes_on_disk == max(0, 9 * size - budget // size * size)


def test_each_view_has_what_the_frozen_blocks_return_for_it(double_data):
    """On the way to the first stage's block what the later stages need is kept, view by view."""
    build, network, _ = double_data

    class Shifted:
        changes_items = False

        def on_sample(self, sample, rng, sampling_rate=None):
            return np.asarray(sample) + rng.normal()

    data = build(stages=(0, 1, 2), views=Views(Shifted(), 0, 3))
    for n_unfrozen in (1, 2):
        block = 2 - n_unfrozen
        source, _ = data.source(network, n_unfrozen)
        assert len(source.stores) == 3
        for view, store in enumerate(source.stores):
            changed = data._changed(network, np.arange(9), view)
            for index, (item,) in enumerate(changed):
                with torch.no_grad():
                    (alone,) = network.backbone.forward_blocks(network.backbone.collate([item]), [block])
                torch.testing.assert_close(store[index][0].data["hidden"], alone.values[0, 0])
        hidden = [torch.stack([store[i][0].data["hidden"] for i in range(9)]) for store in source.stores]
        assert min((a - b).abs().max() for a, b in itertools.pairwise(hidden)) > 1e-2
