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

__all__ = ["AdamW", "clipping_factor", "prefer_sparse_gradients"]

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


class AdamW(torch.optim.Optimizer):
    """AdamW [1]_ that takes sparse gradients as well, and hardly any time beside the arithmetic.

    Of a parameter with such a gradient, a row is updated at every step from the first on that has a gradient for it, to
    the same values as ever. Rows that never had one stay as they are: they do not even decay.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay
        As `torch.optim.AdamW` has them, whose names the state has, too.

    References
    ----------
    .. [1] Loshchilov & Hutter (2019), Decoupled Weight Decay Regularization.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as `torch.optim.Optimizer` does."""
        # torch's method imports its compiler when it is first called, which takes a second or more.
        add = torch.optim.Optimizer.add_param_group
        getattr(add, "__wrapped__", add)(self, param_group)

    @torch.no_grad()
    def step(self, closure: Any = None, *, factor: Tensor | None = None) -> Any:
        """One step, for which gradients are multiplied by a factor where one is given, see `clipping_factor`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not trained:
                continue
            states = [self.state[parameter] for parameter in trained]
            values, gradients, rows = zip(*map(_part, trained, states), strict=True)
            _update(list(values), list(gradients), states, group, factor)
            for parameter, changed, where in zip(trained, values, rows, strict=True):
                if where is not None:
                    parameter[where] = changed
        return loss


def _part(parameter: Tensor, state: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    """What is updated of a parameter and its gradient; and which rows of it that is, where it is not all."""
    gradient: Any = parameter.grad
    if not state:
        state["step"] = torch.zeros(())
        # Moments are of all rows, or of those that were met, in the table's order.
        if gradient.is_sparse:
            state["met"] = torch.zeros(len(parameter))
        for name in _MOMENTS:
            state[name] = torch.zeros_like(parameter[:0] if gradient.is_sparse else parameter)
    if "met" not in state:
        return parameter, gradient.to_dense() if gradient.is_sparse else gradient, None
    if not gradient.is_sparse:
        _meet_all(parameter, state)
        return parameter, gradient, None
    gradient = gradient.coalesce()
    rows = _meet(state, gradient.indices()[0])
    gradients = torch.zeros_like(state["exp_avg"])
    gradients[torch.searchsorted(rows, gradient.indices()[0])] = gradient.values()
    return parameter[rows], gradients, rows


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


def _meet_all(parameter: Tensor, state: dict[str, Any]) -> None:
    """A gradient of all rows: from here on each of them has moments."""
    rows = state.pop("met").nonzero().flatten()
    for name in _MOMENTS:
        state[name] = torch.zeros_like(parameter).index_copy_(0, rows, state[name])


def _update(
    values: list[Tensor],
    gradients: list[Tensor],
    states: list[dict[str, Any]],
    group: dict[str, Any],
    factor: Tensor | None,
) -> None:
    device = values[0].device.type
    if device == "cuda":
        # Its kernel wants the counts beside the values.
        for state in states:
            state["step"] = state["step"].to(values[0].device)
    steps, averages, squares = ([state[name] for state in states] for name in ("step", *_MOMENTS))
    settings: dict[str, Any] = {name: group[name] for name in ("lr", "weight_decay", "eps")}
    settings |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "amsgrad": False, "maximize": False}
    if device == "cpu":
        # What torch does on the way to the same kernel takes several times as long as the kernel, of a head.
        torch._foreach_add_(steps, 1)
        divisor = None if factor is None else 1 / factor
        torch._fused_adamw_(values, gradients, averages, squares, [], steps, **settings, grad_scale=divisor)
    else:
        if factor is not None:
            torch._foreach_mul_(gradients, factor)
        adamw(values, gradients, averages, squares, [], steps, fused=device == "cuda", **settings)


def clipping_factor(parameters: Iterable[nn.Parameter], most: float) -> Tensor | None:
    """What gradients are multiplied by so that their norm together is no more than a bound.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Those of which a gradient is sparse have one value a row afterwards.
    most : float
        The bound.

    Returns
    -------
    Tensor of shape () or None
        None where there is nothing to do.

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
        return None
    factor = most / (torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) + 1e-6)
    # To ask an accelerator whether the norm is too large takes longer than to scale by one.
    if factor.device.type != "cpu":
        return factor.clamp(max=1.0)
    return factor if factor < 1 else None
