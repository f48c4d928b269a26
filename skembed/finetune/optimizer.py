"""AdamW that leaves alone the rows of a table which no sample has, and the clipping before it.

Of the 30,522 words of MiniLM's table, a few hundred labelled texts use some thousand. Gradients and moments of all of
them took a tenth of each step that trained the whole network on 600 short ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

__all__ = ["AdamW", "clip_gradients", "prefer_sparse_gradients"]

#: Elements of a table from which on its gradients are worth being sparse: as many as a layer has of a small network.
_LARGE = 2**20
_MOMENTS = ("exp_avg", "exp_avg_sq")


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
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    self._step_rows(parameter, group)
                elif "met" in self.state[parameter]:
                    self._take_all_rows(parameter)
        return super().step(closure)

    def _step_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = parameter.grad.coalesce()  # type: ignore[union-attr]
        if state and "met" not in state:
            parameter.grad = gradient.to_dense()  # all rows have had one
            return
        parameter.grad = None
        if not state:
            # By torch's own names; the moments are of the rows that were met, in the table's order.
            state["step"] = torch.tensor(0.0)
            state["met"] = torch.zeros(len(parameter))
            state["exp_avg"] = state["exp_avg_sq"] = parameter.new_zeros(0, *parameter.shape[1:])
        rows = _meet(state, gradient.indices()[0])
        gradients = torch.zeros_like(state["exp_avg"])
        gradients[torch.searchsorted(rows, gradient.indices()[0])] = gradient.values()
        values, (beta1, beta2) = parameter[rows], group["betas"]
        adamw(
            [values],
            [gradients],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        parameter[rows] = values

    def _take_all_rows(self, parameter: Tensor) -> None:
        """A gradient of all rows: from here on each of them has moments."""
        state = self.state[parameter]
        rows = state.pop("met").nonzero().flatten()
        for name in _MOMENTS:
            state[name] = torch.zeros_like(parameter).index_copy_(0, rows, state[name])


def _meet(state: dict[str, Any], indices: Tensor) -> Tensor:
    """The rows that were met, these among them; each has moments then."""
    before = state["met"].nonzero().flatten()
    state["met"][indices] = 1
    rows = state["met"].nonzero().flatten()
    if len(rows) > len(before):
        places = torch.searchsorted(rows, before)
        for name in _MOMENTS:
            held = state[name]
            state[name] = held.new_zeros(len(rows), *held.shape[1:]).index_copy_(0, places, held)
    return rows


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
