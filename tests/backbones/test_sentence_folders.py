"""Folders of sentence-transformers directories: early layouts, and damaged lists of modules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from skembed import FineTuneClassifier, TextEmbedder
from skembed.backbones.loading.load import loaded
from skembed.backbones.weights import hub
from skembed.backbones.weights.archive import pack_directory, unpack_directory
from skembed.backbones.weights.files import decisive_files, fingerprint_directory
from skembed.backbones.weights.sentence_modules import SentenceModule, read_modules
from skembed.exceptions import BackboneReadError
from tests.backbones import tiny_texts
from tests.backbones.tiny_texts import sentence_layout

TEXTS = ["cat", "the moon rose again and again over the lazy dog", "", "on the mat by a river"]
SETTINGS = {"max_seq_length": 9}

pytestmark = pytest.mark.filterwarnings("ignore:.*had more tokens")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    tiny_texts.bert(directory)
    return directory


@pytest.fixture
def flat(bert, tmp_path):
    """A directory of today's layout, with the network at its root."""
    directory = Path(shutil.copytree(bert, tmp_path / "flat"))
    modules = {"Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    sentence_layout(directory, modules, {"pooling_mode_cls_token": True}, SETTINGS)
    yield directory
    loaded.clear()


def _early(flat: Path, kind: str = "Transformer", listed: bool = True) -> Path:
    """The same model with the network in a folder of its own."""
    directory = Path(shutil.copytree(flat, flat.with_name("early")))
    folder = directory / f"0_{kind}"
    folder.mkdir()
    (directory / "2_Normalize").mkdir()
    for path in list(directory.iterdir()):
        if path.is_file() and path.name != "modules.json":
            path.rename(folder / path.name)
    modules = json.loads((directory / "modules.json").read_text())
    modules[0] |= {"path": folder.name, "type": f"sentence_transformers.models.{kind}"}
    (directory / "modules.json").write_text(json.dumps(modules))
    if not listed:
        (directory / "modules.json").unlink()
    return directory


def _rows(directory: Path) -> np.ndarray:
    return TextEmbedder(str(directory), device="cpu", precision="float32", cache=None).fit(TEXTS).transform(TEXTS)


@pytest.mark.parametrize("kind", ["Transformer", "BERT", "RoBERTa"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_network_in_a_folder_of_its_own_gives_the_same_rows(flat, kind, listed):
    directory = _early(flat, kind, listed)
    if kind == "RoBERTa":
        (directory / "0_RoBERTa" / "sentence_bert_config.json").rename(
            directory / "0_RoBERTa" / "sentence_roberta_config.json"
        )
    np.testing.assert_array_equal(_rows(directory), _rows(flat))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"])
def test_files_of_the_network_are_part_of_the_fingerprint(flat, file):
    directory = _early(flat)
    before = fingerprint_directory(directory)
    with open(directory / "0_Transformer" / file, "ab") as stream:
        stream.write(b" ")
    assert fingerprint_directory(directory) != before


def test_the_fingerprint_of_todays_layout_is_as_it_was(flat):
    """Fitted estimators of earlier versions name it."""
    names = {path.relative_to(flat).as_posix() for path in decisive_files(flat)}
    assert names == {
        "1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "sentence_bert_config.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_folders_without_a_list_are_part_of_the_fingerprint(flat):
    directory = _early(flat, listed=False)
    before = fingerprint_directory(directory)
    (directory / "2_Normalize").rmdir()
    assert fingerprint_directory(directory) != before


@pytest.mark.parametrize("listed", [True, False])
def test_an_unpacked_archive_gives_the_same_rows(flat, tmp_path, monkeypatch, listed):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    directory = _early(flat, listed=listed)
    unpacked = unpack_directory(pack_directory(directory), fingerprint_directory(directory))
    np.testing.assert_array_equal(_rows(unpacked), _rows(flat))


def test_a_fitted_classifier_takes_an_early_directory_along(flat, tmp_path, monkeypatch):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    directory = _early(flat)
    X, y = ["a cat", "the moon", "a lazy cat", "the moon rose"] * 3, ["cat", "moon"] * 6
    embedder = TextEmbedder(str(directory), device="cpu", cache=None)
    fitted = FineTuneClassifier(embedder, max_epochs=1, random_state=0, validation_fraction=None).fit(X, y)
    expected = fitted.predict_proba(X)
    complete = fitted.self_contained()
    loaded.clear()
    shutil.rmtree(directory)
    np.testing.assert_allclose(complete.predict_proba(X), expected, atol=1e-6)


def test_an_early_repository_in_the_hub_cache_is_complete(flat):
    directory = _early(flat)
    assert hub._is_complete(directory)
    (directory / "0_Transformer" / "config.json").unlink()
    assert not hub._is_complete(directory)


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ({"a": 1}, "holds a dict, not a list"),
        ("text", "holds a str, not a list"),
        ([3], r"has modules\[0\]='3', which must be an object"),
        ([[]], r"has modules\[0\]="),
        ([{"type": "models.Transformer"}], r"has modules\[0\]\.path='None', which must be a string"),
        ([{"path": ""}], r"has modules\[0\]\.type="),
        ([{"path": "", "type": 3}], r"has modules\[0\]\.type='3'"),
        ([{"path": 3, "type": "models.Transformer"}], r"has modules\[0\]\.path='3'"),
        ([{"path": "../other", "type": "models.Transformer"}], r"has modules\[0\]\.path='\.\./other', .* inside"),
        ([{"path": "/etc", "type": "models.Transformer"}], "inside the directory"),
        ([{"path": "C:\\\\x", "type": "models.Transformer"}], "inside the directory"),
        ([{"path": "..\\\\x", "type": "models.Transformer"}], "inside the directory"),
        ([{"path": "a\0b", "type": "models.Transformer"}], "inside the directory"),
    ],
    ids=str,
)
def test_damaged_lists_of_modules_are_refused_by_name(flat, content, entry):
    (flat / "modules.json").write_text(json.dumps(content))
    with pytest.raises(BackboneReadError, match=rf"modules\.json {entry}" if entry[0] in "h" else entry):
        _rows(flat)


@pytest.mark.parametrize(
    ("pooling", "entry"),
    [
        ({"pooling_mode": 3}, "pooling_mode='3', which must be a string or a list"),
        ({"pooling_mode": [3]}, "pooling_mode="),
        ({"pooling_mode": {"mean": True}}, "pooling_mode="),
        ({"pooling_mode_mean_tokens": "yes"}, "pooling_mode_mean_tokens='yes', which must be true or false"),
        ({"include_prompt": "no"}, "include_prompt='no'"),
    ],
    ids=str,
)
def test_damaged_poolings_are_refused_by_name(flat, pooling, entry):
    (flat / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(BackboneReadError, match=rf"config\.json has {entry}"):
        _rows(flat)


@pytest.mark.parametrize(
    "settings", [{"max_seq_length": "9"}, {"max_seq_length": 0}, {"do_lower_case": "yes"}], ids=str
)
def test_damaged_settings_are_refused_by_name(flat, settings):
    (flat / "sentence_bert_config.json").write_text(json.dumps(settings))
    with pytest.raises(BackboneReadError, match=rf"sentence_bert_config\.json has {next(iter(settings))}="):
        _rows(flat)


def test_a_missing_pooling_is_refused_by_name(flat):
    shutil.rmtree(flat / "1_Pooling")
    with pytest.raises(BackboneReadError, match=r"1_Pooling/config\.json is missing"):
        _rows(flat)


def test_a_pooling_without_a_mode_is_a_mean(flat):
    (flat / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 16}')
    rows = _rows(flat)
    (flat / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    np.testing.assert_array_equal(rows, _rows(flat))


def test_numbered_folders_beside_a_network_are_not_modules(bert, tmp_path):
    directory = Path(shutil.copytree(bert, tmp_path / "plain"))
    (directory / "0_Transformer").mkdir()
    (directory / "0_Transformer" / "config.json").write_text("{}")
    assert read_modules(directory) == []


def test_folders_are_read_in_the_order_of_their_numbers(tmp_path):
    for name in ("10_Normalize", "2_Pooling", "0_Transformer", "notes", "3"):
        (tmp_path / name).mkdir()
    (tmp_path / "0_Transformer" / "config.json").write_text("{}")
    kinds = [("Transformer", "0_Transformer"), ("Pooling", "2_Pooling"), ("Normalize", "10_Normalize")]
    assert read_modules(tmp_path) == [SentenceModule(*each) for each in kinds]
