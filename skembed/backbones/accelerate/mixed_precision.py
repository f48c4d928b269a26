"""Mixed precision on CPUs: products in bfloat16 of weights kept in float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from skembed.backbones.accelerate.linear import OneDnnLinear, faster_types

__all__ = ["round_factors"]


def round_factors(module: nn.Module, run: Callable[[], Tensor] | None = None) -> bool:
    """Multiply in bfloat16 in float32 layers of oneDNN, if the processor supports it [1]_.

    Products are summed in float32. What enters one, its bias, what it returns and the gradients of its factors are
    rounded to eight bits, as torch's autocast does; all else remains float32.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    run : callable, optional
        Runs the network on any input, without dropout, and returns what it computes. An activation that is seen to
        stand between two layers is then given what the first has rounded, and rounds what the second would. The
        network returns the same, with half the traffic between the two.

    Returns
    -------
    bool
        True if there is any such layer.

    References
    ----------
    .. [1] Micikevicius et al. (2018), Mixed Precision Training; Kalamkar et al. (2019), A Study of BFLOAT16 for Deep
       Learning Training.
    """
    layers = [sub for sub in module.modules() if type(sub) is OneDnnLinear and sub.weight.device.type == "cpu"]
    if torch.bfloat16 not in faster_types():
        return False
    for layer in layers:
        layer.rounds = True
    if layers and run is not None:
        found, expected = _before_activations(module, layers, run)
        for layer in found:
            layer.stays_rounded = True
        if not _is_unchanged(run, expected):
            # Something else takes what they return, too.
            for layer in found:
                layer.stays_rounded = False
    return bool(layers)


def _is_unchanged(run: Callable[[], Tensor], expected: Tensor) -> bool:
    try:
        with torch.no_grad():
            return torch.equal(run(), expected)
    except (RuntimeError, TypeError, ValueError):
        return False


def _before_activations(
    module: nn.Module, layers: list[OneDnnLinear], run: Callable[[], Tensor]
) -> tuple[list[OneDnnLinear], Tensor]:
    """Return layers whose results reach another layer by an activation, and the output."""
    returned: dict[int, OneDnnLinear] = {}
    activated: dict[int, OneDnnLinear] = {}
    found: list[OneDnnLinear] = []
    seen: list[Tensor] = []  # held, so that no tensor takes the identity of another

    def note_result(layer: OneDnnLinear, args: tuple, result: Tensor) -> None:
        seen.append(result)
        returned[id(result)] = layer

    def note_activation(activation: nn.Module, args: tuple, result: Any) -> None:
        # Dropout that drops nothing returns what it was given.
        if args and id(args[0]) in returned and result is not args[0] and _rounds_once(activation):
            seen.append(result)
            activated[id(result)] = returned[id(args[0])]

    def note_input(layer: OneDnnLinear, args: tuple) -> None:
        if args and id(args[0]) in activated:
            found.append(activated[id(args[0])])

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(note_result).remove)
            hooks.callback(layer.register_forward_pre_hook(note_input).remove)
        for sub in module.modules():
            if not [*sub.children(), *sub.parameters(), *sub.buffers()]:
                hooks.callback(sub.register_forward_hook(note_activation).remove)
        return found, run()


def _rounds_once(activation: nn.Module) -> bool:
    """Return True if a function of bfloat16 equals the rounded function of float32.

    A formula in several steps does not, since every step rounds.
    """
    values = torch.linspace(-8, 8, 2**12).to(torch.bfloat16)
    try:
        found, expected = activation(values), activation(values.float())
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False
    return isinstance(found, Tensor) and torch.equal(found, expected.to(torch.bfloat16))
