"""Directories with a damaged file: one error that names it, or a backbone that works."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.backbones.loading.load import loaded
from skembed.exceptions import BackboneNotFoundError, BackboneReadError
from tests.backbones import tiny
from tests.backbones.tiny_texts import sentence_layout

EMBEDDERS = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}
VALUES: list[Any] = [None, -1, 0, 1, 3, "x", "", [], {}, [1], 10**9, True, False, 0.5, [[3, "a"]], {"a": 1}]
#: Entries of a JSON file that are changed, drawn anew for each file.
N_ENTRIES = 5

pytestmark = pytest.mark.filterwarnings("ignore::skembed.exceptions.SkembedWarning")


def _fit(directory: Path, family: str) -> None:
    modality = tiny.MODALITY[family]
    arguments = {"sampling_rate": 16000} if modality == "audio" else {}
    samples = tiny.samples(modality)[:2]
    embedder = EMBEDDERS[modality](str(directory), device="cpu", precision="float32", cache=None, **arguments)
    try:
        assert embedder.fit(samples).transform(samples).shape[0] == 2
    finally:
        loaded.clear()


def _error(directory: Path, family: str) -> str:
    """The message of our error, or nothing where the backbone works."""
    try:
        _fit(directory, family)
    except BackboneNotFoundError as error:
        return str(error)
    return ""


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to all entries of a JSON value, and to the first three items of its lists."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, part in entries:
        yield (*path, key)
        yield from _places(part, (*path, key))


def _changed(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = _changed(copied[path[0]], path[1:], new)
    return copied


def _damages(path: Path, rng: random.Random) -> Iterator[bytes]:
    content = path.read_bytes()
    yield from (content[: int(share * len(content))] for share in (0, 0.5))
    if path.suffix == ".json":
        whole = json.loads(content)
        yield json.dumps(rng.choice(VALUES)).encode()
        places = list(_places(whole))
        for place in rng.sample(places, min(N_ENTRIES, len(places))):
            yield json.dumps(_changed(whole, place, rng.choice(VALUES))).encode()


@pytest.mark.parametrize("family", ["bert", "hf_vit", "timm_vit", "wav2vec2"])
def test_a_damaged_file_gives_our_error_or_a_working_backbone(copy, family):
    directory, rng = copy(family), random.Random(2)
    if family == "bert":
        modules = {"Pooling": "1_Pooling", "Normalize": "2_Normalize"}
        sentence_layout(directory, modules, {"pooling_mode": "mean", "include_prompt": False}, {"max_seq_length": 32})
        defaults = {"prompts": {"query": "cat "}, "default_prompt_name": "query", "truncate_dim": 8}
        (directory / "config_sentence_transformers.json").write_text(json.dumps(defaults))
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for damage in _damages(path, rng):
            path.write_bytes(damage)
            message = _error(directory, family)
            assert not message or path.name in message, damage[:2000]
        path.write_bytes(content)
    assert not _error(directory, family)


@pytest.mark.parametrize(
    ("family", "file", "keys", "value"),
    [
        ("bert", "tokenizer_config.json", ("model_max_length",), "x"),
        ("bert", "tokenizer_config.json", ("model_max_length",), 1),
        ("bert", "tokenizer_config.json", ("pad_token",), -1),
        ("bert", "tokenizer.json", ("model",), None),
        ("bert", "config.json", ("hidden_dropout_prob",), {"a": 1}),
        ("gpt2", "config.json", ("activation_function",), "x"),
        ("wav2vec2", "config.json", ("hidden_act",), "x"),
        ("whisper", "preprocessor_config.json", ("chunk_length",), []),
        ("ast", "preprocessor_config.json", ("mean",), []),
        ("ast", "preprocessor_config.json", ("std",), 0),
        ("hf_vit", "preprocessor_config.json", ("image_std",), {}),
        ("hf_vit", "preprocessor_config.json", ("image_std",), [0, 0, 0]),
        ("timm_vit", "config.json", ("pretrained_cfg", "mean", 0), "x"),
        ("timm_vit", "config.json", ("pretrained_cfg", "std", 1), 0),
    ],
    ids=str,
)
def test_damage_that_only_a_library_sees_names_the_file(copy, family, file, keys, value):
    path = copy(family) / file
    assert not _error(path.parent, family)
    path.write_text(json.dumps(_changed(json.loads(path.read_text()), keys, value)))
    with pytest.raises(BackboneReadError, match=file):
        _fit(path.parent, family)


def test_a_missing_tokenizer_names_the_file_that_is_not_there(copy):
    directory = copy("bert")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(BackboneReadError, match=r"tokenizer\.json is missing"):
        _fit(directory, "bert")
