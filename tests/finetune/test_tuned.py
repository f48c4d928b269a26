"""Tuned weights: a value that is compared, cloned, stored and refused; and the backbone that it makes."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import save
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skembed import FineTuneClassifier, TextEmbedder
from skembed.backbones.loading import card as locating
from skembed.backbones.loading.load import load, loaded, open_spec
from skembed.backbones.loading.registry import resolve
from skembed.backbones.spec import BackboneSpec, TunedWeights
from skembed.exceptions import IntegrityError, WeightsMismatchError
from skembed.testing import ArrayEmbedder, array_backbone
from tests.backbones import tiny
from tests.finetune import tuning

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
TEXTS = ["a cat", "the mat and the moon", "sat on"]


def other_backbone(n_features: int = 4):
    """The same shape, and other weights."""
    backbone = array_backbone(n_features)
    with torch.no_grad():
        backbone.module.stem.weight += 0.1
    return backbone


def deeper_backbone(n_features: int = 4):
    return array_backbone(n_features, depth=3)


def _base(factory=array_backbone):
    return open_spec(resolve(factory, "array", options=(("n_features", 4),)))


def _with(backbone, tensors):
    return TunedWeights.of(backbone.spec, backbone.fingerprint, tensors)


def _tuned(shift=0.5, names=("layers.1.weight",), base=None):
    base = base or _base()
    own = base.module.state_dict()
    return _with(base, {name: own[name] + shift for name in names})


def _plain(tuned):
    """What the tuned double gives, by hand."""
    module = array_backbone().module
    module.load_state_dict(tuned.tensors(), strict=False)
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


# -- the value ----------------------------------------------------------------------------------------------


def test_equal_weights_on_equal_bases_are_equal():
    first, second, other = _tuned(), _tuned(), _tuned(0.25)
    assert first == second
    assert hash(first) == hash(second)
    assert first != other
    assert first != "layers.1.weight"
    assert len({first, second, other}) == 2
    elsewhere = _tuned(base=_base(other_backbone))
    assert elsewhere.data == first.data
    assert elsewhere != first, "the same changes make another backbone of another base"
    assert elsewhere.fingerprint != first.fingerprint


def test_the_order_of_the_tensors_is_no_difference():
    names = ("layers.0.weight", "layers.1.weight")
    assert _tuned(names=names) == _tuned(names=names[::-1])


def test_copies_share_the_bytes():
    tuned = _tuned()
    assert clone(tuned) is tuned
    assert copy.deepcopy(tuned) is tuned
    embedder = ArrayEmbedder(tuned)
    assert clone(embedder).backbone is tuned
    assert copy.deepcopy(embedder).backbone is tuned
    assert copy.copy(tuned) == tuned


def test_pickle_and_joblib():
    tuned = _tuned()
    again = pickle.loads(pickle.dumps(tuned))
    assert again == tuned
    assert hash(again) == hash(tuned)
    assert again.base == tuned.base
    for name, value in tuned.tensors().items():
        assert torch.equal(again.tensors()[name], value)
    assert joblib.hash(tuned) == joblib.hash(again)
    assert joblib.hash(tuned) != joblib.hash(_tuned(0.25))


def test_a_pickle_is_little_more_than_the_bytes():
    tuned = _tuned()
    assert len(pickle.dumps(tuned)) < len(tuned.data) + 1000


def test_skops_round_trip():
    from skops.io import dumps, get_untrusted_types
    from skops.io import loads as load_skops

    embedder = ArrayEmbedder(_tuned(), precision="float32").fit(X)
    data = dumps(embedder)
    untrusted = get_untrusted_types(data=data)
    assert all(name.startswith("skembed.") for name in untrusted), untrusted
    again = load_skops(data, trusted=untrusted)
    assert again.backbone == embedder.backbone
    np.testing.assert_array_equal(again.transform(X), embedder.transform(X))


def test_in_words():
    tuned = _tuned()
    assert repr(tuned) == f"<skembed.testing.double:array_backbone fine-tuned, 0.0 MB, {tuned.digest[:8]}>"
    assert "fine-tuned" in repr(ArrayEmbedder(tuned))


def test_neither_making_nor_comparing_imports_torch():
    code = (
        "import pickle, sys; tuned = pickle.load(sys.stdin.buffer); assert tuned == tuned; repr(tuned);"
        "pickle.dumps(tuned); assert 'torch' not in sys.modules"
    )
    data = pickle.dumps(_tuned())
    subprocess.run([sys.executable, "-c", code], input=data, check=True, env=os.environ.copy(), timeout=120)


def test_tensors_are_copies_of_no_one_s():
    """What `of` was given may be trained on: the bytes stay as they were."""
    base = _base()
    value = base.module.layers[1].weight
    tuned = _with(base, {"layers.1.weight": value})
    before = value.detach().clone()
    with torch.no_grad():
        value += 1
    assert torch.equal(tuned.tensors()["layers.1.weight"], before)


def test_tensors_of_any_kind_and_layout():
    tensors = {
        "half": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        "count": torch.tensor(7),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "leaf": torch.ones(2, requires_grad=True),
    }
    found = _with(_base(), tensors).tensors()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


# -- the backbone that it makes -----------------------------------------------------------------------------


def test_it_is_a_backbone_of_any_embedder():
    tuned = _tuned()
    embedder = ArrayEmbedder(tuned, precision="float32").fit(X)
    np.testing.assert_allclose(embedder.transform(X), _plain(tuned), atol=1e-6)
    frozen = ArrayEmbedder(precision="float32").fit(X)
    assert np.abs(embedder.transform(X) - frozen.transform(X)).max() > 0.1
    assert embedder.fingerprint_ == tuned.fingerprint != frozen.fingerprint_
    assert embedder.spec_.tuned == tuned
    assert embedder.spec_.name == frozen.spec_.name
    layers = ArrayEmbedder(tuned, layers=[0, 1], precision="float32")
    np.testing.assert_array_equal(layers.fit_transform(X), layers.set_params(backbone=array_backbone).fit_transform(X))
    np.testing.assert_array_equal(frozen.transform(X), ArrayEmbedder(precision="float32").fit_transform(X))


def test_in_a_pipeline_and_after_pickling():
    tuned = _tuned()
    pipeline = make_pipeline(ArrayEmbedder(tuned, precision="float32"), LogisticRegression()).fit(X, [0, 1] * 3)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict_proba(X), pipeline.predict_proba(X))
    np.testing.assert_array_equal(clone(pipeline).fit(X, [0, 1] * 3).predict_proba(X), pipeline.predict_proba(X))


def test_rows_in_the_cache_are_its_own():
    from skembed import EmbeddingCache

    cache = EmbeddingCache()
    kinds = [array_backbone, _tuned(), _tuned(0.25), _tuned(base=_base(other_backbone))]
    rows = [ArrayEmbedder(kind, cache=cache, precision="float32").fit_transform(X) for kind in kinds]
    for kind, expected in zip(kinds, rows, strict=True):
        uncached = ArrayEmbedder(kind, cache=None, precision="float32").fit_transform(X)
        np.testing.assert_array_equal(expected, uncached)
    assert len(np.unique(np.stack(rows).round(5), axis=0)) == len(kinds)


def test_it_is_loaded_once_for_all_equal_ones():
    loaded.clear()
    ArrayEmbedder(_tuned(), cache=None).fit_transform(X)
    before = loaded.n_loads
    ArrayEmbedder(pickle.loads(pickle.dumps(_tuned())), cache=None).fit_transform(X)
    assert loaded.n_loads == before


def test_a_tuned_of_a_tuned_has_the_changes_of_both():
    first = _tuned(0.5, ("layers.0.weight", "layers.1.weight"))
    middle = load(resolve(first, "array", options=(("n_features", 4),)), torch.device("cpu"), "float32")
    changed = {"layers.1.weight": middle.module.state_dict()["layers.1.weight"] + 1, "stem.weight": torch.zeros(8, 4)}
    second = _with(middle, changed)
    assert second.base == first.base
    assert second.base.tuned is None
    assert second.base_fingerprint == first.base_fingerprint
    found, plain = second.tensors(), array_backbone().module.state_dict()
    torch.testing.assert_close(found["layers.0.weight"], plain["layers.0.weight"] + 0.5)
    torch.testing.assert_close(found["layers.1.weight"], plain["layers.1.weight"] + 1.5)
    assert torch.equal(found["stem.weight"], torch.zeros(8, 4))
    assert set(first.tensors()) == {"layers.0.weight", "layers.1.weight"}, "the first is as it was"
    embedder = ArrayEmbedder(second, precision="float32").fit(X)
    np.testing.assert_allclose(embedder.transform(X), _plain(second), atol=1e-6)


def test_a_directory_s_weights(tmp_path):
    tiny.BUILDERS["bert"](tmp_path)
    frozen = TextEmbedder(str(tmp_path), device="cpu", precision="float32").fit(TEXTS)
    base = open_spec(frozen.spec_)
    name = "encoder.layer.2.output.dense.bias"
    tuned = _with(base, {name: base.module.state_dict()[name] + torch.arange(16) / 16})
    embedder = TextEmbedder(tuned, device="cpu", precision="float32").fit(TEXTS)
    assert embedder.spec_ == BackboneSpec("text", str(tmp_path), tuned=tuned)
    assert embedder.n_blocks_ == frozen.n_blocks_
    assert embedder.fingerprint_ == tuned.fingerprint
    with torch.no_grad():
        base.module.state_dict()[name].add_(torch.arange(16) / 16)
    items = base.preprocess(TEXTS, embedder._reading.options)
    for row, (item,) in zip(embedder.transform(TEXTS), items, strict=True):
        with torch.no_grad():
            (tokens,) = base.forward_blocks(base.collate([item]), [len(base.blocks) - 1])
        np.testing.assert_allclose(row, tokens.values[0].mean(0), atol=1e-4)
    assert np.abs(embedder.transform(TEXTS) - frozen.transform(TEXTS)).max() > 1e-3


# -- what is refused ----------------------------------------------------------------------------------------


def test_another_base_is_refused(monkeypatch):
    data = pickle.dumps(ArrayEmbedder(_tuned()).fit(X))
    loaded.clear()
    monkeypatch.setattr("skembed.testing.double.array_backbone", other_backbone)
    with pytest.raises(WeightsMismatchError, match=r"belong to 'skembed.*Install the weights that were trained"):
        pickle.loads(data).transform(X)
    with pytest.raises(WeightsMismatchError, match="belong to"):
        ArrayEmbedder(pickle.loads(data).backbone).fit(X)
    loaded.clear()


def test_another_directory_is_refused(tmp_path):
    """The directory is the one that was named, and holds other weights now."""
    tiny.BUILDERS["bert"](tmp_path)
    base = open_spec(TextEmbedder(str(tmp_path)).fit(TEXTS).spec_)
    tuned = _with(base, {"embeddings.LayerNorm.bias": torch.ones(16)})
    embedder = TextEmbedder(tuned, device="cpu").fit(TEXTS)
    (file,) = tmp_path.glob("*.safetensors")
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors[next(iter(tensors))] += 1
    save_file(tensors, file)
    for call in (lambda: embedder.transform(TEXTS), lambda: clone(embedder).fit(TEXTS)):
        with pytest.raises(WeightsMismatchError, match="belong to"):
            call()


@pytest.mark.parametrize("where", [0, 9, -1])
def test_damaged_bytes_are_refused(where):
    tuned = _tuned()
    damaged = bytearray(tuned.data)
    damaged[where] ^= 1
    # As a damaged file would bring it back: the digest is the stored one.
    again = pickle.loads(pickle.dumps(tuned).replace(tuned.data, bytes(damaged)))
    assert again.data != tuned.data
    with pytest.raises(IntegrityError, match="changed since they were stored"):
        again.tensors()
    loaded.clear()
    with pytest.raises(IntegrityError, match="Load the estimator from another copy"):
        ArrayEmbedder(again).fit_transform(X)
    loaded.clear()


def test_tensors_that_the_backbone_has_not_are_refused():
    tuned = _with(_base(), {"layers.7.weight": torch.zeros(8, 8)})
    with pytest.raises(WeightsMismatchError, match=r"has no 'layers.7.weight', which was fine-tuned"):
        ArrayEmbedder(tuned).fit(X)


def test_tensors_of_another_shape_are_refused():
    tuned = _with(_base(), {"layers.1.weight": torch.zeros(3, 3)})
    with pytest.raises(WeightsMismatchError):
        ArrayEmbedder(tuned).fit(X)


def test_a_base_of_another_shape_is_another_base():
    tuned = _tuned()
    with pytest.raises(WeightsMismatchError):
        tuned.check_base(_base(deeper_backbone).fingerprint)
    tuned.check_base(_base().fingerprint)


def test_bytes_are_those_of_a_safetensors_file():
    tuned = _tuned()
    assert tuned.data == save({"layers.1.weight": array_backbone().module.layers[1].weight.detach() + 0.5})


def test_fits_leave_no_card_files_of_their_own(tmp_path, monkeypatch):
    """A search fits hundreds of networks; all of them have the card of their base."""
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    monkeypatch.setattr(locating, "_seen", {})
    texts, labels = tuning.samples("sentence_transformers")
    tuning.embedder("sentence_transformers").fit(texts)
    before = set(tmp_path.rglob("*.json"))
    assert len(before) == 1
    fitted = [
        tuning.fit("sentence_transformers", *how, random_state=i)
        for i, how in enumerate((("partial",), ("full", "lora")))
    ]
    again = FineTuneClassifier(fitted[0].embedder_, strategy="partial", **tuning.SHORT).fit(texts, labels)
    assert set(tmp_path.rglob("*.json")) == before
    assert len(locating._seen) == 1, "they pile up in memory"
    # In another process, too, which has met nothing of them.
    monkeypatch.setattr(locating, "_seen", {})
    for estimator in (*fitted, again, fitted[0].self_contained()):
        embedder = clone(estimator.embedder_).fit(texts)
        assert embedder.fingerprint_ == estimator.embedder_.fingerprint_
        np.testing.assert_array_equal(embedder.transform(texts), estimator.transform(texts))
    assert set(tmp_path.rglob("*.json")) - set(tmp_path.rglob("unpacked/**/*.json")) == before
