"""Warm starts: the parts of an earlier fit that mean the same in the next one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from sklearn.base import clone

from skembed.backbones.spec import TunedWeights
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.finetune.record import Linear
from skembed.finetune.tasks import Multiclass, Regression, Task
from skembed.probes.linear import Probe, Standardizer

__all__ = ["EarlierFit", "Start", "origin_of"]


def origin_of(embedder: BaseEmbedder) -> tuple[str, str, str | None]:
    """Return what identifies the backbone that a user asked for: kind of embedder, backbone and revision.

    Parameters
    ----------
    embedder : BaseEmbedder
        Embedder of the user, fitted or unfitted.
    """
    backbone = embedder.backbone
    if isinstance(backbone, TunedWeights):
        name = backbone.fingerprint
    elif isinstance(backbone, (str, os.PathLike)):
        path = os.path.expanduser(backbone)
        name = os.path.realpath(path) if os.path.isdir(path) else os.fspath(backbone)
    else:
        name = f"{backbone.__module__}:{backbone.__qualname__}"
    return type(embedder).__qualname__, name, embedder.revision


@dataclass(frozen=True)
class Start:
    """Head of an earlier fit, with the outputs of the fit that begins.

    Parameters
    ----------
    head : Linear
        Rows of fresh outputs are not used.
    fresh : ndarray of shape (n_outputs,), bool
        Outputs that the earlier fit did not have.
    """

    head: Linear
    fresh: np.ndarray

    def to_probe(self, standardizer: Standardizer, fitted: Probe) -> Probe:
        """Return the earlier head on standardized features; fresh outputs are those of a probe fitted now."""
        earlier = self.head.to_probe(standardizer)
        weight = np.where(self.fresh[:, None], fitted.weight, earlier.weight)
        return Probe(weight, np.where(self.fresh, fitted.bias, earlier.bias), 0.0)


@dataclass(frozen=True)
class EarlierFit:
    """Result of an earlier fit, for the next one to begin with.

    Parameters
    ----------
    origin : tuple
        Identity of the embedder that the fit was given, see `origin_of`.
    embedder : BaseEmbedder
        Fitted embedder with the trained backbone.
    head : Linear
        Head on the rows of `embedder`.
    task : Task
        Meaning of the head's outputs.
    """

    origin: tuple[str, str, str | None]
    embedder: BaseEmbedder
    head: Linear
    task: Task

    def starting_embedder(self, given: BaseEmbedder) -> BaseEmbedder:
        """Return a clone of the user's embedder, with the trained weights if it asks for the same backbone."""
        embedder = clone(given)
        if origin_of(given) == self.origin:
            embedder.set_params(backbone=self.embedder.backbone, revision=self.embedder.revision)
        return embedder

    def start(self, embedder: BaseEmbedder, task: Task) -> Start | None:
        """Return the head for the next fit, or None if nothing of it means the same there.

        Parameters
        ----------
        embedder : BaseEmbedder
            Fitted embedder, with which the next fit starts.
        task : Task
            Task of the next fit.

        Raises
        ------
        ValueError
            If labels or targets are known by their columns alone and their number changed.
        """
        if type(task) is not type(self.task) or Encoder(embedder).space != Encoder(self.embedder).space:
            return None
        if isinstance(task, Multiclass):
            return self._by_class(task)
        if self.task.n_outputs != task.n_outputs:
            raise ValueError(
                f"warm_start=True: y has {task.n_outputs} columns and had {self.task.n_outputs} in the fit before. "
                "Use warm_start=False, or give the same columns."
            )
        head = self._in_units_of(task) if isinstance(task, Regression) else self.head
        return Start(head, np.zeros(task.n_outputs, dtype=bool))

    def _by_class(self, task: Multiclass) -> Start | None:
        """Match rows of the head by class, wherever a class is in the order of the classes."""
        assert isinstance(self.task, Multiclass)
        rows = {label: row for row, label in enumerate(self.task.classes.tolist())}
        places = np.array([rows.get(label, -1) for label in task.classes.tolist()])
        if (places < 0).all():
            return None
        return Start(Linear(self.head.weight[places], self.head.bias[places], self.head.temperature), places < 0)

    def _in_units_of(self, task: Regression) -> Linear:
        """Return the head in the standardized units of other targets: their mean and scale differ."""
        assert isinstance(self.task, Regression)
        ratio = self.task.scale / task.scale
        bias = self.head.bias * ratio + (self.task.mean - task.mean) / task.scale
        return Linear(self.head.weight * ratio[:, None], bias)
