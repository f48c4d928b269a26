"""Finding the ordered depth of a network, and reading it with hooks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skembed.backbones.base import Block

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["blocks_from_layers", "dry_run", "first_tensor", "record_blocks", "with_buffers"]


def blocks_from_layers(
    module: nn.Module, layers: Sequence[str], *, stem: Iterable[str] = (), top: Iterable[str] = ()
) -> tuple[Block, ...]:
    """Order the parameters of a network into a stem, its layers, and what comes after them.

    Parameters registered before the first layer are the stem's, those after the last are part of the top
    block, as a final normalisation is.

    Parameters
    ----------
    module : nn.Module
        The network.
    layers : sequence of str
        Dotted names of the layer modules, first to last.
    stem, top : iterable of str
        Prefixes that are registered on the other side of the layers than where they act.
    """
    stem, top = tuple(stem), tuple(top)
    inner = [Block(name, (name,)) for name in layers]
    before: list[str] = []
    after: list[str] = []
    seen_layer = False
    for name, _ in module.named_parameters():
        if any(block.owns(name) for block in inner):
            seen_layer = True
        elif Block("", stem).owns(name):
            before.append(name)
        elif seen_layer or Block("", top).owns(name):
            after.append(name)
        else:
            before.append(name)
    last = inner[-1]
    return (Block("stem", tuple(before)), *inner[:-1], Block(last.name, (*last.prefixes, *after)))


def with_buffers(module: nn.Module, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The same blocks, named by whole modules, so that they own the buffers beside their parameters too.

    A frozen batch normalisation must keep its running statistics as well as its weights. Buffers of modules
    without parameters (a table of rotary angles) go to the first block: nothing trains them.

    Parameters
    ----------
    module : nn.Module
        The network.
    blocks : sequence of Block
        Every parameter in exactly one of them.
    """
    owner = {name: i for i, block in enumerate(blocks) for name, _ in module.named_parameters() if block.owns(name)}
    held: dict[str, set[int]] = {}
    for name, index in owner.items():
        for prefix in _prefixes(name):
            held.setdefault(prefix, set()).add(index)
    found: list[dict[str, None]] = [{} for _ in blocks]
    for name, index in owner.items():
        found[index][next(prefix for prefix in _prefixes(name) if len(held[prefix]) == 1)] = None
    whole = [Block(block.name, tuple(prefixes)) for block, prefixes in zip(blocks, found, strict=True)]
    left = tuple(name for name, _ in module.named_buffers() if not any(block.owns(name) for block in whole))
    return (Block(whole[0].name, (*whole[0].prefixes, *left)), *whole[1:])


def _prefixes(name: str) -> list[str]:
    """Dotted prefixes, shortest first, the name itself last."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def dry_run(module: nn.Module, *args: Tensor, **kwargs):
    """What the network returns, in shapes alone: on torch's meta device, in milliseconds and without memory.

    Raises
    ------
    ValueError
        If the network cannot run on such input, as its own error says.
    """
    import torch
    from torch.func import functional_call

    tensors = (*module.named_parameters(), *module.named_buffers())
    with torch.no_grad():
        state = {name: torch.empty_like(value, device="meta") for name, value in tensors}
        try:
            return functional_call(module, state, tuple(value.to("meta") for value in args), kwargs)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(str(error)) from error


def first_tensor(output) -> Tensor:
    """The hidden state among what a layer returns: the thing itself, or the head of a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output


@contextmanager
def record_blocks(layers: Sequence[nn.Module], wanted: Iterable[int]):
    """Record block outputs while the network runs.

    Layer 0 is what enters the first layer module (the stem's output); layer i > 0 is what the i-th layer
    module returns. The last layer is left to the caller, who has the network's own output, normalised.

    Parameters
    ----------
    layers : sequence of nn.Module
        Layer modules, first to last (without the stem).
    wanted : iterable of int
        Layers to record.

    Yields
    ------
    dict of int to Tensor
        Filled by the forward pass.
    """
    found: dict[int, Tensor] = {}
    handles = []
    # A module is shared by all threads of the process, and so are its hooks: each takes only its own pass.
    thread = threading.get_ident()

    def keep_input(index):
        # Removed while another thread is about to call it, a hook is called without the keywords.
        def hook(_module, args, kwargs=None):
            if threading.get_ident() == thread:
                found[index] = args[0] if args else kwargs["hidden_states"]

        return hook

    def keep_output(index):
        def hook(_module, _args, output):
            if threading.get_ident() == thread:
                found[index] = first_tensor(output)

        return hook

    try:
        for index in set(wanted):
            if index == 0:
                handles.append(layers[0].register_forward_pre_hook(keep_input(0), with_kwargs=True))
            elif index < len(layers):
                handles.append(layers[index - 1].register_forward_hook(keep_output(index)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
