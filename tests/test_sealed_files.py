"""Private, sealed state files, and those that embedders keep of their backbones."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from skembed import TextEmbedder
from skembed.backbones.loading import card as locating
from skembed.exceptions import CacheWarning
from skembed.utils.sealed_files import private_directory, read_sealed_json, replacing, write_sealed_json
from tests.backbones import tiny

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links as POSIX has them")
TEXTS = ["a cat", "the moon rose again"]


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_files_and_new_directories_are_private_whatever_the_umask(tmp_path, open_umask):
    path = tmp_path / "a" / "b" / "state.json"
    write_sealed_json(path, "test", 1, {"a": 1})
    assert _mode(path) == 0o600
    assert _mode(path.parent) == _mode(path.parent.parent) == 0o700


@posix
def test_drafts_are_private_and_unpredictable(tmp_path, open_umask):
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "state") as draft:
            names.add(draft.name)
            assert _mode(draft) == 0o600
            assert str(os.getpid()) not in draft.name.split("-")
            draft.write_text("new")
            draft.chmod(0o666)
        assert _mode(tmp_path / "state") == 0o600
    assert len(names) == 2


@posix
def test_links_are_replaced_and_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "state").symlink_to(tmp_path / "victim")
    with replacing(tmp_path / "state") as draft:
        draft.write_text("new")
    # Even with a guessed name, the draft is not opened through a link.
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    (tmp_path / ".state-guessed.draft").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError), replacing(tmp_path / "state"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "state").read_text() == "new"


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path):
    (tmp_path / "state").write_text("old")

    def interrupted():
        with replacing(tmp_path / "state") as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").read_text() == "old"


def test_drafts_of_killed_processes_are_removed(tmp_path):
    old, recent, other = (tmp_path / name for name in (".a-0.draft", ".a-1.draft", ".b-0.draft"))
    for path in (old, recent, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (time.time() - 10_000,) * 2)
    with replacing(tmp_path / "a") as draft:
        draft.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [recent.name, other.name, "a"]


def test_a_file_in_the_way_of_a_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        private_directory(tmp_path / "file" / "below")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("true", "false"),
        lambda text: text.replace('"a"', '"b"'),
        lambda text: text[:-3],
        lambda text: "[]",
        lambda text: "",
        lambda text: '{"content": {"a": true}}',
        lambda text: text + " " * 2**20,
        lambda text: '{"content": ' + "[" * 10_000 + "]" * 10_000 + ', "sha256": ""}',
    ],
    ids=["value", "key", "cut", "list", "empty", "no seal", "too large", "too deep"],
)
def test_changed_json_is_refused(tmp_path, change):
    path = tmp_path / "state.json"
    write_sealed_json(path, "test", 1, {"a": True})
    assert read_sealed_json(path, "test", 1) == {"a": True}
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=r"^.+$"):
        read_sealed_json(path, "test", 1)


def test_a_seal_holds_for_one_name_kind_and_version(tmp_path):
    path, copy = tmp_path / "a.json", tmp_path / "b.json"
    write_sealed_json(path, "test", 1, {"a": 1})
    copy.write_bytes(path.read_bytes())
    for arguments in ((copy, "test", 1), (path, "other", 1), (path, "test", 2)):
        with pytest.raises(ValueError, match="digest"):
            read_sealed_json(*arguments)


# -- cards ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("base")
    tiny.BUILDERS["sentence_transformers"](directory)
    return str(directory)


@pytest.fixture
def embedder(base, tmp_path, monkeypatch):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(locating, "_seen", {})
    return TextEmbedder(base, device="cpu", precision="float32", cache=None)


def _new_process(monkeypatch) -> None:
    monkeypatch.setattr(locating, "_seen", {})


def _card(tmp_path) -> Path:
    (path,) = (tmp_path / "home" / "cards").iterdir()
    return path


def _fit_after_change(embedder, tmp_path, monkeypatch, change) -> None:
    """Change the card, and see that a new process warns once and computes the same rows."""
    expected = embedder.fit(TEXTS).transform(TEXTS)
    path = _card(tmp_path)
    change(path)
    _new_process(monkeypatch)
    with pytest.warns(CacheWarning) as caught:
        rows = embedder.fit(TEXTS).transform(TEXTS)
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    np.testing.assert_array_equal(rows, expected)
    # The card was written again, so the next process has nothing to warn of.
    _new_process(monkeypatch)
    np.testing.assert_array_equal(embedder.fit(TEXTS).transform(TEXTS), expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"normalize": true', '"normalize": false'),
        ('"normalize": true', '"normalize": "no"'),
        ('"default_pooling": "cls"', '"default_pooling": "mean"'),
        ('"n_blocks": 4', '"n_blocks": 3000000000000'),
        ('"n_blocks": 4', '"n_blocks": "4"'),
        ('"widths"', '"heights"'),
        ("}", ""),
    ],
)
def test_an_edited_card_changes_no_rows(embedder, tmp_path, monkeypatch, old, new):
    def edit(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    _fit_after_change(embedder, tmp_path, monkeypatch, edit)


@pytest.mark.parametrize(
    "fields",
    [
        {"normalize": "no"},
        {"default_pooling": None},
        {"default_pooling": "layer_attention"},
        {"n_blocks": 10**12},
        {"n_blocks": True},
        {"class_token": 1},
        {"widths": {"x": 0}},
        {"widths": []},
        {"fingerprint": "0" * 64},
        {"unknown": 1},
    ],
)
def test_a_sealed_card_with_wrong_fields_changes_no_rows(embedder, tmp_path, monkeypatch, fields):
    def write(path):
        content = json.loads(path.read_text())["content"]
        write_sealed_json(path, "card", locating._CARD_VERSION, {**content, **fields})

    _fit_after_change(embedder, tmp_path, monkeypatch, write)


@posix
def test_cards_are_private(embedder, tmp_path, open_umask):
    embedder.fit(TEXTS)
    assert _mode(_card(tmp_path)) == 0o600
    assert _mode(tmp_path / "home") == _mode(tmp_path / "home" / "cards") == 0o700


@posix
def test_planted_links_under_old_draft_names_are_not_followed(embedder, tmp_path, monkeypatch):
    embedder.fit(TEXTS)
    path = _card(tmp_path)
    path.unlink()
    _new_process(monkeypatch)
    (tmp_path / "victim").write_text("precious")
    path.symlink_to(tmp_path / "victim")
    path.with_name(f"{path.name}.{os.getpid()}").symlink_to(tmp_path / "victim")
    with pytest.warns(CacheWarning, match="is invalid"):
        embedder.fit(TEXTS)
    assert (tmp_path / "victim").read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()
