"""Several tasks on one base: its tensors are held once, its directory is read once, and its archive is stored once."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from skembed.backbones.loading.load import load, loaded
from skembed.backbones.spec import TunedWeights
from tests.finetune import tuning

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tasks():
    """Five, each with other weights."""
    return [tuning.fit("bert", "partial", "lora", random_state=seed, max_epochs=1) for seed in range(5)]


def _module(classifier, precision="float32"):
    return load(classifier.embedder_.spec_, CPU, precision).module


def _base(precision="float32"):
    return load(tuning.embedder("bert").fit(tuning.TEXTS[:1]).spec_, CPU, precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tensors_that_did_not_change_are_the_base_s(tasks, precision):
    loaded.clear()
    variants, base = [_module(task, precision) for task in tasks], _base(precision).module
    own = base.state_dict()
    before = {name: value.clone() for name, value in own.items()}
    changed = {name.partition(".lora_")[0] + ".weight" for name in tasks[0].embedder_.backbone.tensors()}
    assert len(changed) == 6
    for variant in variants:
        for name, value in variant.state_dict().items():
            assert value.dtype == own[name].dtype
            assert (value.data_ptr() == own[name].data_ptr()) == (name not in changed), name
    for task in tasks:
        task.predict(tuning.TEXTS)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_the_base_computes_what_it_did(tasks):
    frozen = tuning.embedder("bert").fit(tuning.TEXTS)
    before = frozen.transform(tuning.TEXTS)
    rows = [task.transform(tuning.TEXTS) for task in tasks]
    np.testing.assert_array_equal(frozen.transform(tuning.TEXTS), before)
    assert len(np.unique(np.stack([before, *rows])[:, 0, 0])) == 6


def test_switching_between_tasks_reads_nothing_again(tasks):
    loaded.clear()
    expected = [task.predict_proba(tuning.TEXTS) for task in tasks]
    assert loaded.n_loads
    before = loaded.n_loads
    for _ in range(3):
        for task, rows in zip(tasks, expected, strict=True):
            again = pickle.loads(pickle.dumps(task))
            np.testing.assert_array_equal(again.predict_proba(tuning.TEXTS), rows)
    tuning.embedder("bert").fit_transform(tuning.TEXTS)
    assert loaded.n_loads == before


def test_tasks_do_not_push_another_base_out(tasks):
    loaded.clear()
    other = tuning.embedder("roberta").fit(tuning.TEXTS)
    other.transform(tuning.TEXTS)
    for task in tasks:
        task.predict(tuning.TEXTS)
    before = loaded.n_loads
    other.transform(tuning.TEXTS)
    assert loaded.n_loads == before


def test_tasks_are_held_as_long_as_they_own_no_more_than_the_base():
    """Each of these owns all of it: one is held at a time, and built again without reading."""
    loaded.clear()
    base = _base()
    state = base.module.state_dict()
    whole = [
        TunedWeights.of(base.spec, base.fingerprint, {name: v + shift for name, v in state.items()})
        for shift in (0.1, 0.2, 0.3)
    ]
    embedders = [tuning.embedder("bert", backbone=tuned).fit(tuning.TEXTS) for tuned in whole]
    rows = [embedder.transform(tuning.TEXTS) for embedder in embedders]
    (family,) = loaded._held.values()
    assert list(family._tuned) == [whole[-1]]
    before = loaded.n_loads
    np.testing.assert_array_equal(embedders[0].transform(tuning.TEXTS), rows[0])
    assert loaded.n_loads == before


def test_a_copy_made_while_the_base_is_in_use_has_no_hooks(tasks):
    loaded.clear()
    base = _base()
    handle = base.module.encoder.layer[0].register_forward_hook(lambda *_: pytest.fail("a hook of the base"))
    base.module.encoder.layer[0].forward = lambda *_, **__: pytest.fail("a method of the base")
    try:
        tasks[0].transform(tuning.TEXTS)
    finally:
        handle.remove()
        del base.module.encoder.layer[0].forward


def test_what_was_folded_for_inference_is_held_once_too():
    """Below the block that trained; above, a task has its own."""
    loaded.clear()
    X, _ = tuning.samples("timm_resnet")
    frozen = tuning.embedder("timm_resnet").fit(X)
    frozen.transform(X)
    tasks = [tuning.fit("timm_resnet", "partial", method, max_epochs=1) for method in ("lora", "norms")]
    expected = [task.transform(X) for task in tasks]
    base, *variants = [load(each.spec_, CPU, "float32") for each in (frozen, *(task.embedder_ for task in tasks))]
    ours = [each.copies.network(each.module) for each in (base, *variants)]
    convolutions = [name for name, sub in ours[0].named_modules() if isinstance(sub, torch.nn.Conv2d)]
    top = base.blocks[-1]
    assert any(top.owns(name) for name in convolutions)
    for name in convolutions:
        pointers = {network.get_submodule(name).weight.data_ptr() for network in ours}
        assert len(pointers) == (3 if top.owns(name) else 1), name
    loaded.clear()
    for task, rows in zip(tasks, expected, strict=True):
        np.testing.assert_allclose(task.transform(X), rows, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4


def test_archives_of_one_base_are_one_object(tasks):
    whole = [task.self_contained() for task in tasks[:3]]
    archives = [task.embedder_.backbone.archive for task in whole]
    assert all(archive is archives[0] for archive in archives)
    data = pickle.dumps(whole)
    assert len(data) < len(archives[0]) + sum(len(pickle.dumps(task)) for task in tasks[:3])
    again = [pickle.loads(pickle.dumps(task)) for task in whole]
    assert all(task.embedder_.backbone.archive is again[0].embedder_.backbone.archive for task in again)
    for before, after in zip(whole, pickle.loads(data), strict=True):
        np.testing.assert_array_equal(after.predict_proba(tuning.TEXTS), before.predict_proba(tuning.TEXTS))


def test_a_base_from_an_archive_is_the_one_that_is_held(tasks):
    loaded.clear()
    tasks[0].predict(tuning.TEXTS)
    before = loaded.n_loads
    tasks[1].self_contained().predict(tuning.TEXTS)
    assert loaded.n_loads == before


def test_old_pickles_have_no_additions():
    """Made before there were any, in their attributes as in their fingerprint."""
    base = _base()
    tuned = TunedWeights.of(base.spec, base.fingerprint, {"embeddings.LayerNorm.bias": torch.ones(16)})
    state = {name: value for name, value in vars(tuned).items() if name != "added"}
    assert set(state) == {"base", "base_fingerprint", "data", "archive", "digest", "fingerprint"}
    old = copy.copy(tuned)
    old.__dict__.clear()
    old.__setstate__(state)
    assert old.added == {}
    assert old == tuned
    np.testing.assert_array_equal(
        tuning.embedder("bert", backbone=old).fit_transform(tuning.TEXTS),
        tuning.embedder("bert", backbone=tuned).fit_transform(tuning.TEXTS),
    )
