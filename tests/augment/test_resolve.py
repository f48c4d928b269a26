"""What `augment=` may say, and the word it gets where it says something else."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from skembed.augment import OPERATIONS, Flip, Rotation, WordDropout, describe, resolve_augmentation
from tests.augment.cases import photograph, token_backbone, token_item

RNG = np.random.default_rng


def test_nothing_is_none():
    assert resolve_augmentation(None, "image") is None
    assert resolve_augmentation((), "text") is None
    assert describe(None) == "none"


@pytest.mark.parametrize(
    ("augment", "operations"),
    [
        ("flip", (Flip(),)),
        (("rotation", {"degrees": 5}), (Rotation(degrees=5),)),
        (["rotation", "flip"], (Rotation(), Flip())),
        (("rotation", "flip"), (Rotation(), Flip())),
        ((("rotation", {"degrees": 5}), Flip(horizontal=1)), (Rotation(degrees=5), Flip(horizontal=1))),
        (Flip(vertical=0.5), (Flip(vertical=0.5),)),
    ],
)
def test_names_parameters_and_instances_in_order(augment, operations):
    augmentation = resolve_augmentation(augment, "image")
    assert augmentation.operations == operations
    assert resolve_augmentation(augmentation, "image") == augmentation


def test_presets_inside_a_sequence():
    strong = resolve_augmentation("strong", "image").operations
    assert resolve_augmentation(["strong", "rotation"], "image").operations == (*strong, Rotation())


def test_operations_are_done_in_the_order_given():
    def first(text):
        return text + "1"

    def second(text):
        return text + "2"

    assert resolve_augmentation([first, second], "text").on_sample("x", RNG(0)) == "x12"


def test_all_operations_on_items_are_done_in_the_order_given():
    masked_first = resolve_augmentation([("token_masking", {"rate": 0.5}), ("token_dropout", {"rate": 0.5})], "text")
    item = masked_first.on_item(token_item(), RNG(0), token_backbone())
    by_hand, rng = token_item(), RNG(0)
    for operation in masked_first.operations:
        by_hand = operation.on_item(by_hand, rng, token_backbone())
    assert item.data["ids"].tolist() == by_hand.data["ids"].tolist()
    assert 4 in item.data["ids"]
    assert item.length < token_item().length


def test_a_line_for_reports():
    augment = ["flip", ("rotation", {"degrees": 5, "fill": (0, 0, 0)}), ImageOps.mirror]
    assert describe(resolve_augmentation(augment, "image")) == (
        "flip, rotation(degrees=5, fill=(0, 0, 0)), PIL.ImageOps.mirror"
    )
    words = resolve_augmentation(("synonym_replacement", {"synonyms": {"a": ["b"], "c": ["d"]}}), "text")
    assert describe(words) == "synonym_replacement(synonyms of 2 words, rate=0.1)"


def test_what_an_augmentation_changes():
    """Where only items change, samples are prepared once for all epochs."""
    both = resolve_augmentation("standard", "text")
    assert (both.changes_samples, both.changes_items) == (True, True)
    items = resolve_augmentation("token_dropout", "text")
    assert (items.changes_samples, items.changes_items) == (False, True)
    samples = resolve_augmentation(["flip", ImageOps.mirror], "image")
    assert (samples.changes_samples, samples.changes_items) == (True, False)


@pytest.mark.parametrize(
    ("augment", "modality", "words"),
    [
        ("standrad", "image", "'standrad' is not known. Did you mean 'standard'"),
        ("rotatoin", "image", "Did you mean 'rotation'.*'random_erasing'"),
        ("flip", "text", "flip changes image samples, and these are text samples.*'word_dropout'"),
        (WordDropout(), "audio", "word_dropout changes text samples.*'noise'"),
        (("rotation", {"angle": 5}), "image", "rotation has no parameter 'angle'. It has degrees, fill, probability"),
        (Flip, "image", "augment=<class .*Flip'> is not an augmentation"),
        (3, "image", "augment=3 is not an augmentation.*'light', 'standard' or 'strong'"),
        ([3], "image", "augment=3 is not an augmentation"),
        ({"rotation": {}}, "image", "is not an augmentation"),
        ("light", "video", "modality='video' is not known. Use 'image', 'text' or 'audio'"),
    ],
)
def test_what_is_no_augmentation_gets_a_clear_word(augment, modality, words):
    with pytest.raises(ValueError, match=words):
        resolve_augmentation(augment, modality)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("random_resized_crop", {"scale": (0, 1)}, "random_resized_crop: scale=.* from 0.0001 to 1"),
        ("random_resized_crop", {"scale": (0.9, 0.5)}, "scale=.* two numbers in order"),
        ("random_resized_crop", {"scale": 0.5}, "scale=0.5"),
        ("random_resized_crop", {"ratio": (1.1, 1.3)}, "ratio=.* does not include 1"),
        ("flip", {"horizontal": 1.5}, "flip: horizontal=1.5 is out of range. Use a number from 0 to 1"),
        ("flip", {"vertical": -0.1}, "vertical=-0.1"),
        ("flip", {"probability": float("nan")}, "probability=nan"),
        ("flip", {"probability": True}, "probability=True"),
        ("flip", {"probability": "often"}, "probability='often'"),
        ("color_jitter", {"brightness": 2}, "brightness=2 "),
        ("color_jitter", {"contrast": 2}, "contrast=2 "),
        ("color_jitter", {"saturation": -1}, "saturation=-1 "),
        ("color_jitter", {"hue": 0.6}, "hue=0.6 .* from 0 to 0.5"),
        ("rotation", {"degrees": 181}, "degrees=181 .* from 0 to 180"),
        ("rotation", {"fill": "noise"}, "fill='noise' is not a color. Use 'mean', or red, green and blue"),
        ("rotation", {"fill": (0, 0, 256)}, "fill="),
        ("rotation", {"fill": (0, 0)}, "fill="),
        ("random_erasing", {"scale": (0.5, 1)}, "scale=.* to 0.9"),
        ("random_erasing", {"ratio": (0, 1)}, "ratio="),
        ("rand_augment", {"magnitude": 31}, "magnitude=31 .* whole number from 0 to 30"),
        ("rand_augment", {"magnitude": 9.5}, "magnitude=9.5"),
        ("rand_augment", {"n_operations": 0}, "n_operations=0 .* from 1 to 14"),
        ("word_dropout", {"rate": 1}, "word_dropout: rate=1 .* to 0.9"),
        ("word_swap", {"rate": 1.1}, "rate=1.1"),
        ("word_swap", {"distance": 0}, "distance=0 .* from 1"),
        (
            "synonym_replacement",
            {"synonyms": ["a"]},
            "synonyms=.* is not a source of synonyms. Use 'wordnet', a mapping",
        ),
        ("synonym_replacement", {"synonyms": {}, "rate": 2}, "rate=2"),
        ("token_masking", {"rate": 0.95}, "token_masking: rate=0.95"),
        ("token_dropout", {"rate": -1}, "token_dropout: rate=-1"),
        ("speed_perturbation", {"factors": ()}, r"factors=\(\)"),
        ("speed_perturbation", {"factors": 1.1}, "factors=1.1 .* a tuple of numbers from 0.5 to 2"),
        ("speed_perturbation", {"factors": (0.1,)}, "factors="),
        ("gain", {"decibels": 6}, "gain: decibels=6 .* two numbers in order, from -60 to 60"),
        ("noise", {"snr": (30, 10)}, "noise: snr="),
        ("noise", {"kind": "brown"}, "kind='brown' is not known. Use 'white' or 'pink'"),
        ("time_shift", {"seconds": -1}, "seconds=-1"),
        ("spec_augment", {"n_time_masks": 1.5}, "n_time_masks=1.5 .* whole number"),
        ("spec_augment", {"frequency_share": 1.5}, "frequency_share=1.5"),
        ("spec_augment", {"n_time_masks": 2, "time_share": 0.5}, "n_time_masks=2 masks of time_share=0.5"),
        (
            "spec_augment",
            {"n_frequency_masks": 1, "frequency_share": 1},
            "nothing to hear. Their product must be below",
        ),
    ],
)
def test_bad_parameters_are_named_with_what_came(name, parameters, words):
    modality = OPERATIONS[name].modality
    with pytest.raises(ValueError, match=f"(?s){words}") as caught:
        resolve_augmentation((name, parameters), modality)
    assert str(caught.value).startswith(f"{name}: ")


def test_lists_are_kept_as_tuples():
    """As JSON and YAML have them; an operation stays hashable."""
    crop = resolve_augmentation(("random_resized_crop", {"scale": [0.5, 1.0]}), "image").operations[0]
    assert crop.scale == (0.5, 1.0)
    hash(crop)


class TestFunctions:
    def test_with_the_sample_alone(self):
        mirrored = resolve_augmentation(ImageOps.mirror, "image").on_sample(photograph(), RNG(0))
        assert np.array_equal(np.asarray(mirrored), np.asarray(photograph())[:, ::-1])

    def test_with_a_generator_where_two_are_wanted(self):
        def louder(waveform, generator):
            return waveform * generator.uniform(2, 3)

        def shifted(waveform, rng=None):
            return waveform + rng.uniform()

        waveform = np.ones(4, dtype=np.float32)
        assert resolve_augmentation(louder, "audio").on_sample(waveform, RNG(1))[0] == np.float32(RNG(1).uniform(2, 3))
        assert resolve_augmentation(shifted, "audio").on_sample(waveform, RNG(1))[0] == np.float32(1 + RNG(1).uniform())

    @pytest.mark.parametrize(
        "function", [lambda text, times=2: text * times, lambda *texts: texts[0] * 2, "{0}{0}".format]
    )
    def test_a_second_parameter_of_another_meaning_gets_no_generator(self, function):
        assert resolve_augmentation(function, "text").on_sample("ab", RNG(0)) == "abab"

    def test_torchvision_s_transforms_are_functions_too(self):
        from torchvision.transforms import v2

        grey = resolve_augmentation(v2.Grayscale(), "image").on_sample(photograph(), RNG(0))
        assert (grey.mode, grey.size) == ("RGB", photograph().size)
        assert np.ptp(np.asarray(grey), axis=2).max() == 0

    @pytest.mark.parametrize(
        ("function", "modality", "words"),
        [
            (
                lambda image: np.asarray(image),
                "image",
                r"returned an array of shape \(32, 48, 3\), uint8. .* PIL.Image",
            ),
            (lambda text: None, "text", "returned an instance of NoneType. It must return a str"),
            (lambda waveform: waveform[:0], "audio", r"returned an array of shape \(0,\), float32.*a waveform"),
            (lambda waveform: waveform[None], "audio", r"shape \(1, 4\)"),
            (lambda waveform: waveform * np.nan, "audio", "finite"),
            (lambda waveform: waveform.astype(int), "audio", "int"),
        ],
    )
    def test_what_is_no_sample_is_named(self, function, modality, words):
        value = {"image": photograph(), "text": "a", "audio": np.ones(4, dtype=np.float32)}[modality]
        with pytest.raises(TypeError, match=f"augment: .*lambda.* {words}"):
            resolve_augmentation(function, modality).on_sample(value, RNG(0))

    def test_doubles_become_floats(self):
        waveform = resolve_augmentation(lambda waveform: waveform.astype(float), "audio").on_sample(np.ones(4), RNG(0))
        assert waveform.dtype == np.float32

    def test_its_own_errors_come_through(self):
        def broken(text):
            raise KeyError("my own")

        with pytest.raises(KeyError, match="my own"):
            resolve_augmentation(broken, "text").on_sample("a", RNG(0))

    def test_module_level_functions_pickle_and_are_told_by_name(self):
        augmentation = resolve_augmentation(ImageOps.mirror, "image")
        assert pickle.loads(pickle.dumps(augmentation)) == augmentation
        assert "UserOperation(function=PIL.ImageOps.mirror, modality='image')" in repr(augmentation)
        part = resolve_augmentation(functools.partial(ImageOps.posterize, bits=2), "image")
        assert describe(part) == "partial(PIL.ImageOps.posterize, bits=2)"
        assert isinstance(part.on_sample(photograph(), RNG(0)), Image.Image)
