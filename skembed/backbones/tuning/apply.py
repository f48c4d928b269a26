"""Fine-tuned weights put into a loaded network."""

from __future__ import annotations

import torch
from torch import Tensor

from skembed.backbones.base import Backbone
from skembed.backbones.spec import TunedWeights, place_of
from skembed.backbones.tuning.method import find_method
from skembed.backbones.tuning.placing import replace_tensor
from skembed.exceptions import WeightsMismatchError

__all__ = ["apply_tuned"]


def apply_tuned(backbone: Backbone, tuned: TunedWeights) -> None:
    """Put fine-tuned weights into a backbone; tensors are replaced and never written to.

    Parameters
    ----------
    backbone : Backbone
        Base as loaded. Its module is changed in place, and its tensors are not.
    tuned : TunedWeights
        Weights that were tuned from this base.

    Raises
    ------
    WeightsMismatchError
        If the network has no such tensors, or they were added by an unknown method.
    """
    tensors = tuned.tensors()
    added: dict[str, dict[str, Tensor]] = {key: {} for key in tuned.added}
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        place = place_of(name)
        (plain if place is None or place.key not in added else added[place.key])[name] = value
    own = backbone.module.state_dict()
    for name, value in plain.items():
        if name not in own or own[name].shape != value.shape:
            raise _other_network(backbone, name, "no" if name not in own else "another shape of")
        replace_tensor(backbone.module, name, value)
    for key, record in tuned.added.items():
        method = find_method(record["method"])
        if method is None:
            raise WeightsMismatchError(
                f"{backbone.spec.name} was fine-tuned with {record['method']!r}, which this version of skembed does "
                "not know. Install the version that it was fitted with, or a later one."
            )
        try:
            # Filled at once, but drawn first: torch's random state is the user's.
            with torch.random.fork_rng(devices=[]):
                method.rebuild(backbone, key, record, added[key])
        except (AttributeError, KeyError) as error:
            raise _other_network(backbone, next(iter(added[key])), "no place for") from error
    backbone.fingerprint = tuned.fingerprint


def _other_network(backbone: Backbone, name: str, has: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        f"{backbone.spec.name} has {has} {name!r}, which was fine-tuned: it is read differently by the "
        "libraries installed here. Install the versions that it was trained with, or fit again."
    )
