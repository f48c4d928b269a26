"""AdamW that leaves alone the rows of a table which no sample has, and the clipping before it.

Of the 30,522 words of MiniLM's table, a few hundred labelled texts use some thousand. Gradients and moments of all of
them took a tenth of each step that trained the whole network on 600 short ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AdamW", "clip_gradients", "prefer_sparse_gradients"]

#: Elements of a table from which on its gradients are worth being sparse: as many as a layer has of a small network.
_LARGE = 2**20


def prefer_sparse_gradients(module: nn.Module) -> None:
    """Let large tables have gradients for the rows alone that a batch looks up.

    Parameters
    ----------
    module : nn.Module
        Changed in place; its outputs stay what they are. On accelerators nothing was measured, and nothing changes.
    """
    for sub in module.modules():
        if isinstance(sub, nn.Embedding) and not sub.scale_grad_by_freq:
            sub.sparse = sub.weight.device.type == "cpu" and sub.weight.numel() >= _LARGE


class AdamW(torch.optim.AdamW):
    """AdamW [1]_ that takes sparse gradients as well.

    Of a parameter with such a gradient, a row is updated at every step from the first on that has a gradient for it, to
    the same values as ever. Rows that never had one stay as they are: they do not even decay.

    References
    ----------
    .. [1] Loshchilov & Hutter (2019), Decoupled Weight Decay Regularization.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._step_rows(parameter, group)
        return super().step(closure)

    def _step_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, parameter.grad = parameter.grad.coalesce(), None  # type: ignore[union-attr]
        state = self.state[parameter]
        if not state:
            # Moments of all rows, whose memory is not taken before they are written to; by torch's own names.
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["met"] = torch.zeros(len(parameter))
        state["step"] += 1
        state["met"][gradient.indices()[0]] = 1
        rows = state["met"].nonzero().flatten()
        gradients = torch.zeros(len(rows), *parameter.shape[1:], dtype=parameter.dtype)
        gradients[torch.searchsorted(rows, gradient.indices()[0])] = gradient.values()
        values, average, square = parameter[rows], state["exp_avg"][rows], state["exp_avg_sq"][rows]
        (beta1, beta2), rate, n_steps = group["betas"], group["lr"], float(state["step"])
        average.lerp_(gradients, 1 - beta1)
        square.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        spread = (square / (1 - beta2**n_steps)).sqrt_().add_(group["eps"])
        values.mul_(1 - rate * group["weight_decay"]).addcdiv_(average, spread, value=-rate / (1 - beta1**n_steps))
        parameter[rows], state["exp_avg"][rows], state["exp_avg_sq"][rows] = values, average, square


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale gradients down, where their norm together is above a bound; sparse ones among them.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Their gradients are changed in place.
    most : float
        The bound.

    References
    ----------
    .. [1] Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks.
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # Rows that a batch has twice are summed before they are measured.
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        else:
            gradients.append(parameter.grad)
    if not gradients:
        return
    norm = torch.nn.utils.get_total_norm(gradients)
    factor = most / (norm + 1e-6)
    # To ask an accelerator whether the norm is too large takes longer than to scale by one.
    if norm.device.type != "cpu" or factor < 1:
        torch._foreach_mul_(gradients, factor.clamp(max=1.0))
