"""What holds for every operation: seeded, alike under any number of workers, no side effects, frozen, picklable."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone

from skembed.augment import OPERATIONS, PRESETS, AugmentationPipeline, resolve_augmentation, sample_rng
from tests.augment.cases import RATE, changed, mel_item, photograph, recording, sure, token_backbone, token_item, view

EVERY = pytest.mark.parametrize("name", OPERATIONS)
#: All that is drawn by weights of a preset, as pairs of modality and strength.
STRENGTHS = [(modality, strength) for modality, presets in PRESETS.items() for strength in presets]


def _modality(name: str) -> str:
    return OPERATIONS[name].modality


@EVERY
def test_the_same_generator_gives_the_same_and_another_another(name):
    modality, operation = _modality(name), sure(name)
    drawn = [changed(operation, modality, seed) for seed in range(12)]
    assert drawn == [changed(operation, modality, seed) for seed in range(12)]
    untouched = changed(lambda value: value, modality, 0)
    assert drawn != [untouched] * 12
    if name != "flip":  # which only has two outcomes, and is sure of one here
        assert any(one != drawn[0] for one in drawn)


def test_a_flip_is_drawn_too():
    assert len({str(changed("flip", "image", seed)) for seed in range(8)}) == 2


@EVERY
def test_no_random_state_but_the_generator_s_moves(name):
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    results = [changed(sure(name), _modality(name), seed) for seed in range(3)]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before
    # Nor are they read: other states, same results.
    np.random.seed(2)
    random.seed(2)
    torch.manual_seed(2)
    assert [changed(sure(name), _modality(name), seed) for seed in range(3)] == results


@EVERY
def test_nothing_that_is_given_is_written_to(name):
    """A decoded sample and an item may be kept for the next epoch."""
    modality, operation = _modality(name), sure(name)
    value = {"image": photograph, "text": lambda: "a b c d e f", "audio": recording}[modality]()
    item = token_item() if modality == "text" else mel_item()
    waveform = recording()
    if modality == "audio":
        value.flags.writeable = False
    before = np.array(value).copy(), {key: np.array(part).copy() for key, part in item.data.items()}
    for seed in range(5):
        operation.on_sample(value, np.random.default_rng(seed), sampling_rate=RATE)
        operation.on_item(item, np.random.default_rng(seed), token_backbone())
    assert np.array_equal(np.array(value), before[0])
    assert all(np.array_equal(part, before[1][key]) for key, part in item.data.items())
    assert np.array_equal(waveform, recording())


@EVERY
def test_frozen_hashable_and_picklable(name):
    plain, operation = OPERATIONS[name](), sure(name)
    assert plain == OPERATIONS[name]()
    assert hash(operation) == hash(sure(name))
    copied = pickle.loads(pickle.dumps(operation))
    assert copied == operation
    assert repr(copied) == repr(operation)
    with pytest.raises(AttributeError):
        operation.rate = 1  # type: ignore[attr-defined]
    assert plain.describe() == name
    assert "Parameters" in str(OPERATIONS[name].__doc__)


@EVERY
def test_without_rate_or_probability_nothing_changes(name):
    """At 0 the sample itself comes back: not a copy that was rounded on its way."""
    modality = _modality(name)
    at_zero = {
        "token_masking": {"rate": 0},
        "token_dropout": {"rate": 0},
        "spec_augment": {"n_time_masks": 0, "n_frequency_masks": 0},
    }
    operation = sure(name, **at_zero.get(name, {"probability": 0}))
    assert changed(operation, modality, 0) == changed(lambda value: value, modality, 0)


def test_the_same_under_any_number_of_workers():
    tasks = [(modality, "strong", index) for modality in PRESETS for index in range(8)]
    alone = [view(task) for task in tasks]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(view, reversed(tasks))) == alone[::-1]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert list(processes.map(view, tasks, chunksize=5)) == alone


def test_other_threads_may_draw_from_torch_meanwhile():
    """A dropout that draws while images are prepared: neither may disturb the other."""
    torch.manual_seed(5)
    expected = torch.rand(200)
    torch.manual_seed(5)
    with ThreadPoolExecutor(1) as thread:
        views = [thread.submit(view, ("image", "strong", index)) for index in range(10)]
        drawn = torch.stack([torch.rand(()) for _ in range(200)])
        assert [one.result() for one in views] == [view(("image", "strong", index)) for index in range(10)]
    assert torch.equal(drawn, expected)


def test_generators_of_samples_are_apart():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (2**40, 0, 0)]
    firsts = [sample_rng(*key).integers(2**62) for key in keys]
    firsts += [sample_rng(0, 0, 0, stage=1).integers(2**62)]
    assert len(set(firsts)) == len(keys) + 1
    assert sample_rng(3, 4, 5).integers(2**62) == sample_rng(3, 4, 5).integers(2**62)


@pytest.mark.parametrize(("modality", "strength"), STRENGTHS)
def test_presets_change_their_samples(modality, strength):
    augmentation = resolve_augmentation(strength, modality)
    assert isinstance(augmentation, AugmentationPipeline)
    untouched = changed(lambda value: value, modality, 0)
    assert sum(changed(strength, modality, seed) != untouched for seed in range(20)) >= 10


@pytest.mark.parametrize("augment", ["strong", ("flip", ("rotation", {"degrees": 5})), ["flip"], sure("rotation")])
def test_a_parameter_of_an_estimator_survives_clone(augment):
    class Estimator(BaseEstimator):
        def __init__(self, augment=None):
            self.augment = augment

    copied = clone(Estimator(augment))
    assert repr(copied.augment) == repr(augment)
    assert resolve_augmentation(copied.augment, "image") == resolve_augmentation(augment, "image")


def test_the_repr_is_the_same_in_every_process():
    """It names a candidate of a search, or a checkpoint: no address, no order of a set."""
    code = (
        "from PIL import ImageOps; from skembed.augment import *;"
        "print([SynonymReplacement(synonyms={'a': set('bcdefg')}), resolve_augmentation(ImageOps.mirror, 'image')])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1
    assert b"PIL.ImageOps.mirror" in told.pop()


def test_parameters_need_no_torch():
    code = (
        "import sys; from skembed.augment import *;"
        "[repr(resolve_augmentation('strong', m)) for m in ('image', 'text', 'audio')];"
        "import numpy as np; WordDropout().on_sample('a b', np.random.default_rng(0));"
        "heavy = {'torch', 'torchvision', 'transformers', 'nltk'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
