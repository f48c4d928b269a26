"""How far a fit has come, on disk: a killed fit goes on from its last epoch and ends at the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skembed._warn import warn
from skembed.exceptions import FitWarning
from skembed.finetune.loop import Averaged
from skembed.finetune.stages import Progress, Recipe
from skembed.finetune.tasks import Scores

__all__ = ["Checkpoint"]

#: Raised when what a checkpoint holds changes: none of an older version is read.
_VERSION = 2


class Checkpoint:
    """The file of one fit in a directory that fits may share: each has its own, named by all that decides its result.

    Parameters
    ----------
    directory : path-like
        Made where it does not exist.
    what : tuple
        Backbone, reading, settings, split, seed and score.
    y : ndarray
        Targets.
    arrays : sequence of ndarray
        The rest of the data, and where training begins.
    """

    def __init__(self, directory: Any, what: tuple, y: np.ndarray, arrays: Sequence[np.ndarray]):
        digest = sha256(repr((_VERSION, what)).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr(np.asarray(y).tolist()).encode())
        self.path = Path(directory) / f"fit-{digest.hexdigest()[:24]}.safetensors"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"checkpoint_dir={str(directory)!r} is a file, or lies in one. Give a directory."
            ) from error

    def save(self, recipe: Recipe, optimizer: torch.optim.Optimizer, average: Averaged | None) -> None:
        """Write what is needed to go on, in one piece: a reader sees the old file or the new one."""
        stage = recipe.stages[recipe.progress.stage]
        tensors = {f"now/{name}": value for name, value in recipe.network.state(stage.n_unfrozen).items()}
        tensors |= {f"best/{name}": value for name, value in recipe.best_state.items()}
        tensors |= {f"optimizer/{name}": value for name, value in _optimizer_state(recipe, optimizer).items()}
        if average is not None:
            tensors |= {f"average/{i}": value for i, value in enumerate(average.values)}
        progress = {**asdict(recipe.progress), "average_steps": average.n_steps if average else 0}
        # safetensors takes no two names for one piece of memory.
        whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            save_file(whole, draft, metadata={"progress": json.dumps(progress)})
            os.replace(draft, self.path)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            warn(
                f"No checkpoint could be written to {self.path.parent} ({error}). The fit goes on without.",
                FitWarning,
            )
            recipe.save = None

    def resume(self, recipe: Recipe) -> bool:
        """Bring a recipe to where its checkpoint was written; False where there is none."""
        if not self.path.is_file():
            return False
        try:
            with safe_open(self.path, framework="pt") as file:
                progress = json.loads((file.metadata() or {})["progress"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            warn(f"The checkpoint {self.path} cannot be read ({error}). The fit begins anew.", FitWarning)
            return False
        steps = progress.pop("average_steps")
        best, baseline, tried = (_scores(progress.pop(name)) for name in ("best", "baseline", "tried"))
        assert best is not None
        assert baseline is not None
        path = [tuple(done) for done in progress.pop("path")]
        recipe.progress = Progress(best, baseline, tried=tried, path=path, **progress)
        device = recipe.network.device
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "optimizer": {}, "average": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value.to(device)
        recipe.best_state = parts["best"]

        def restore(optimizer: torch.optim.Optimizer, average: Averaged | None) -> None:
            _restore_optimizer(recipe, optimizer, parts["optimizer"])
            if average is not None:
                average.n_steps = steps
                average.values = [parts["average"][str(i)] for i in range(len(average.values))]

        recipe.resumed = {"state": parts["now"], "restore": restore}
        return True

    def remove(self) -> None:
        """The fit is over."""
        self.path.unlink(missing_ok=True)


def _scores(held: dict[str, Any] | None) -> Scores | None:
    return None if held is None else Scores(**{**held, "each": tuple(held["each"])})


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
            # The count of steps begins on the CPU; where it must not stay there the optimiser takes it along.
            optimizer.state[parameter] = {key: v.cpu() if key == "step" else v for key, v in own.items()}
