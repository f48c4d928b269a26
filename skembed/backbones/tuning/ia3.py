"""IA3: learned scales of what layers return, merged into their weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from skembed.backbones.tuning.method import Method
from skembed.backbones.tuning.placing import by_host, device_of, replace_tensor
from skembed.backbones.tuning.targets import check_names, find_targets, hint_at_list

__all__ = ["IA3"]


class IA3(Method):
    """Train one scale per output of linear maps and convolutions [1]_.

    All scales begin at one. No other method that reaches into blocks trains as few parameters. A fitted estimator
    stores the scales alone, and loads with the scales merged into the weights.

    Parameters
    ----------
    target_modules : list of str, default=None
        Endings of the names of layers whose outputs are scaled, such as ["key", "value"]; None takes every linear map
        and every convolution that is neither grouped nor dilated in the blocks that train.

    References
    ----------
    .. [1] Liu et al. (2022), Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning.

    Examples
    --------
    >>> from skembed import IA3, FineTuneClassifier
    >>> FineTuneClassifier(strategy="full", method=IA3(target_modules=["key", "value"]))
    FineTuneClassifier(method=IA3(target_modules=['key', 'value']), strategy='full')
    """

    name = "ia3"
    _parameter_constraints: ClassVar[dict[str, Any]] = {"target_modules": ["array-like", None]}

    def __init__(self, target_modules=None):
        self.target_modules = target_modules

    def _validate_params(self):
        super()._validate_params()
        check_names(self.target_modules)

    def _hint(self, name, value):
        return hint_at_list(value)

    def check(self, backbone, blocks, options=None) -> None:
        find_targets(backbone.module, blocks, self.target_modules, backbone.spec.name)

    def attach(self, backbone, blocks, key, batch) -> dict[str, Any]:
        for name in find_targets(backbone.module, blocks, self.target_modules, backbone.spec.name):
            layer = backbone.module.get_submodule(name)
            scales = _Scales(len(layer.weight) if _outputs_first(layer) else layer.weight.shape[1])
            layer.register_forward_hook(scales.to(device_of(backbone.module)).scale_output)
            layer.add_module(key, scales)
        return {"method": self.name}

    @classmethod
    def rebuild(cls, backbone, key, record, tensors) -> None:
        for host, values in by_host(tensors).items():
            layer: Any = backbone.module.get_submodule(host)
            scales = values["values"].to(layer.weight.device)
            rows = scales.view(-1, *[1] * (layer.weight.ndim - 1)) if _outputs_first(layer) else scales
            replace_tensor(backbone.module, f"{host}.weight", layer.weight.float() * rows)
            if layer.bias is not None:
                replace_tensor(backbone.module, f"{host}.bias", layer.bias.float() * scales)


class _Scales(nn.Module):
    """One factor per output of a layer."""

    def __init__(self, n_outputs: int):
        super().__init__()
        self.values = nn.Parameter(torch.ones(n_outputs))

    def scale_output(self, layer: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output * (self.values.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else self.values)


def _outputs_first(layer: nn.Module) -> bool:
    """Return True if the first axis of a layer's weight is that of its outputs."""
    return not isinstance(layer, Conv1D)
