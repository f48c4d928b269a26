"""Checkpoints: a killed fit resumes after its last epoch and ends with the same result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skembed.exceptions import FitWarning
from skembed.finetune.loop import Averaged
from skembed.finetune.recipe import Recipe
from skembed.finetune.restoring import checked_progress, checked_tensors, is_finite
from skembed.utils.identity import digest
from skembed.utils.sealed_files import private_directory, replacing, seal
from skembed.utils.warnings import warn

__all__ = ["Checkpoint", "warn_unwritable"]

#: Version of the content. Checkpoints of other versions are not read.
_VERSION = 6


class Checkpoint:
    """Checkpoint file of one fit, named by everything that decides the result.

    Parameters
    ----------
    directory : path-like
        Directory, created if it does not exist. Several fits may share it.
    what : tuple
        Backbone, reading, settings, split, seed and score.
    y : ndarray
        Targets.
    arrays : sequence of ndarray
        Other data, and the initial head.

    Raises
    ------
    ValueError
        If `directory` is a file or is below a file.
    OSError
        If the directory cannot be created, such as for missing permissions.
    """

    def __init__(self, directory: Any, what: tuple, y: np.ndarray, arrays: Sequence[np.ndarray]):
        contents = [
            (array.dtype.str, array.shape, sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
            for array in map(np.asarray, arrays)
        ]
        name = digest((_VERSION, what, np.asarray(y), contents))
        self.path = Path(directory).expanduser() / f"fit-{name[:24]}.safetensors"
        try:
            private_directory(self.path.parent)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"checkpoint_dir={str(directory)!r} is a file or below a file. Give a directory."
            ) from error

    def save(self, recipe: Recipe, optimizer: torch.optim.Optimizer, average: Averaged | None) -> None:
        """Write everything that resuming needs, atomically: a reader sees the old or the new file."""
        stage = recipe.plan.stages[recipe.progress.stage]
        tensors = {f"now/{name}": value for name, value in recipe.network.state(stage.n_unfrozen).items()}
        tensors |= {f"best/{name}": value for name, value in recipe.best_state.items()}
        tensors |= {f"optimizer/{name}": value for name, value in _optimizer_state(recipe, optimizer).items()}
        if average is not None:
            tensors |= {f"average/{i}": value for i, value in enumerate(average.values)}
        # safetensors takes no two names for one piece of memory.
        whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        if not is_finite(whole.values()):
            return  # training has diverged: the epoch before is the last to resume from
        progress = json.dumps({**asdict(recipe.progress), "average_steps": average.n_steps if average else 0})
        metadata = {"progress": progress, "sha256": self._seal(progress, whole)}
        try:
            with replacing(self.path) as draft:
                save_file(whole, draft, metadata=metadata)
        except (OSError, SafetensorError) as error:
            warn_unwritable(self.path.parent, error)
            recipe.save = None

    def _seal(self, progress: str, tensors: Mapping[str, Tensor]) -> str:
        return seal(self.path, "checkpoint", _VERSION, _content(progress, tensors))

    def resume(self, recipe: Recipe) -> bool:
        """Restore a recipe from its checkpoint; return False if there is none.

        Warns
        -----
        FitWarning
            If the file is damaged, was edited, or does not fit the recipe. It is then ignored.
        """
        try:
            # Inside the block: it raises PermissionError where the directory may not be searched.
            if not self.path.is_file():
                return False
            record, tensors = self._read()
            steps = record.pop("average_steps", None)
            if type(steps) is not int or steps < 0:
                raise ValueError(f"average_steps={steps!r} is not a whole number")
            progress = checked_progress(record, recipe)
            parts = checked_tensors(tensors, recipe, progress.stage)
        except (OSError, SafetensorError, ValueError) as error:
            warn(f"The checkpoint {self.path} cannot be read ({error}). The fit starts from the beginning.", FitWarning)
            return False
        device = recipe.network.device
        parts = {part: {name: value.to(device) for name, value in held.items()} for part, held in parts.items()}
        recipe.progress, recipe.best_state = progress, parts["best"]

        def restore(optimizer: torch.optim.Optimizer, average: Averaged | None) -> None:
            _restore_optimizer(recipe, optimizer, parts["optimizer"])
            if average is not None:
                average.n_steps = steps
                average.values = [parts["average"][str(i)] for i in range(len(average.values))]

        recipe.resumed = {"state": parts["now"], "restore": restore}
        return True

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the progress and the tensors of the file.

        Raises
        ------
        OSError, SafetensorError, ValueError
            If the file cannot be read, or differs from what was written.
        """
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = metadata.get("progress", "")
        if metadata.get("sha256") != self._seal(progress, tensors):
            raise ValueError("its content does not match its digest")
        try:
            record = json.loads(progress)
        except RecursionError as error:
            raise ValueError("its progress is nested too deeply") from error
        if not isinstance(record, dict):
            raise ValueError("its progress is not a record")
        return record, tensors

    def remove(self) -> None:
        """Delete the file of a fit that has ended.

        Warns
        -----
        FitWarning
            If the file cannot be deleted. The result of the fit does not depend on it.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            warn(f"The checkpoint {self.path} cannot be deleted ({error}). Delete it by hand.", FitWarning)


def warn_unwritable(directory: Any, error: Exception) -> None:
    """Warn that a fit runs without checkpoints because its directory cannot be written.

    Parameters
    ----------
    directory : path-like
        Value of `checkpoint_dir`.
    error : Exception
        Reason, as the system states it.
    """
    warn(
        f"No checkpoint could be written to checkpoint_dir={str(directory)!r} ({error}). The fit continues "
        "without, and cannot be resumed later. Give a directory that is writable and has space.",
        FitWarning,
    )


def _content(progress: str, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Return the bytes that a seal covers: the progress, and names, types, shapes and values of the tensors."""
    yield progress.encode()
    for name in sorted(tensors):
        value = tensors[name]
        yield f"{name}\0{value.dtype}\0{tuple(value.shape)}".encode()
        yield value.contiguous().flatten().view(torch.uint8).numpy().data


def _optimizer_state(recipe: Recipe, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in recipe.network.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _restore_optimizer(recipe: Recipe, optimizer: torch.optim.Optimizer, held: dict[str, Tensor]) -> None:
    for name, parameter in recipe.network.named_parameters():
        own = {key.rpartition("/")[2]: value for key, value in held.items() if key.rpartition("/")[0] == name}
        if own:
            # torch's fused optimizers want the count of steps on the device, the others want it on the CPU.
            on_cpu = set() if optimizer.defaults["fused"] else {"step"}
            optimizer.state[parameter] = {key: v.cpu() if key in on_cpu else v for key, v in own.items()}
