"""Ordered depth of a network, and hooks that read it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skembed.backbones.base import Backbone, Block

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "blocks_from_layers",
    "count_beside",
    "dry_run",
    "enter_behind",
    "first_tensor",
    "is_passed_over",
    "observe_layers",
    "record_blocks",
    "with_buffers",
]


def blocks_from_layers(
    module: nn.Module, layers: Sequence[str], *, stem: Iterable[str] = (), top: Iterable[str] = ()
) -> tuple[Block, ...]:
    """Order the parameters of a network into a stem, its layers, and what comes after them.

    Parameters registered before the first layer are the stem's, those after the last are part of the top
    block, as a final normalization is.

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
    """Return the same blocks by whole modules, so that they include buffers.

    A frozen batch normalization must keep its running statistics as well as its weights. Buffers of modules
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
    """Return the dotted prefixes of a name, shortest first, and the name itself."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def dry_run(module: nn.Module, *args: Tensor, **kwargs):
    """Run the network for shapes alone, on torch's meta device, without memory.

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
    """Return the hidden state from the output of a layer, a tensor or a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output


class _Enough(Exception):
    """Signal that everything requested of a network has been recorded."""


@contextmanager
def record_blocks(layers: Sequence[nn.Module], wanted: Iterable[int], *, stop: bool = False):
    """Record block outputs while the network runs.

    Layer 0 is what enters the first layer module (the stem's output); layer i > 0 is what the i-th layer
    module returns. The last layer is left to the caller, who has the network's own output, normalized.

    Parameters
    ----------
    layers : sequence of nn.Module
        Layer modules, first to last (without the stem).
    wanted : iterable of int
        Layers to record.
    stop : bool, default=False
        True if the pass, and the context with it, ends behind the highest of them, and no earlier than the first layer
        module. What it would have returned is never computed.

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

    def leave(_module, _args, _output):
        if threading.get_ident() == thread:
            raise _Enough(found)

    wanted = set(wanted)
    try:
        for index in wanted:
            if index == 0:
                handles.append(layers[0].register_forward_pre_hook(keep_input(0), with_kwargs=True))
            elif index < len(layers):
                handles.append(layers[index - 1].register_forward_hook(keep_output(index)))
        if stop:
            handles.append(layers[max([1, *wanted]) - 1].register_forward_hook(leave))
        yield found
    except _Enough as error:
        if error.args[0] is not found:
            raise
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def enter_behind(layers: Sequence[nn.Module], block: int, hidden: Tensor, *, beside: int | None = None):
    """Start a network from the output of a block; layers below compute nothing.

    The network must be this thread's own.

    Parameters
    ----------
    layers : sequence of nn.Module
        Layer modules, first to last (without the stem).
    block : int
        Whose output `hidden` is; 0 for what enters the first layer module.
    hidden : Tensor
        As `record_blocks` found it.
    beside : int, optional
        Number of empty places behind the hidden state in the tuple that a layer returns; None without a tuple.
    """

    def wrapped(state):
        return state if beside is None else (state, *(None,) * beside)

    def give(*_args, **_kwargs):
        return wrapped(hidden)

    def skip(*args, **kwargs):
        return wrapped(args[0] if args else kwargs["hidden_states"])

    def replace_input(_module, args, kwargs):
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    skipped = list(layers[:block])
    handle = None
    try:
        for layer in skipped:
            layer.forward = give if layer is skipped[-1] else skip  # type: ignore[method-assign]
        if not skipped:
            handle = layers[0].register_forward_pre_hook(replace_input, with_kwargs=True, prepend=True)
        yield
    finally:
        for layer in skipped:
            del layer.forward  # the class's own shows again
        if handle is not None:
            handle.remove()


def is_passed_over(layer: nn.Module) -> bool:
    """Return True if a layer is called but computes nothing, as below `enter_behind`."""
    return "forward" in vars(layer)


def observe_layers(backbone: Backbone, run: Callable[[], object]) -> None:
    """Run the network once to record what its layers return; see `Observations`.

    Raises
    ------
    NotImplementedError
        If they return more than the hidden state: whoever enters the network would have to bring that along.
    """
    if not backbone.observed.layers_ran:
        backbone.observed.beside = count_beside(backbone.module.get_submodule(backbone.layer_names[0]), run)
        backbone.observed.layers_ran = True


def count_beside(layer: nn.Module, run: Callable[[], object]) -> int | None:
    """Return the empty places beside the hidden state in the tuples that layers return.

    None if it returns no tuple.

    Raises
    ------
    NotImplementedError
        If it returns more that counts: whoever enters the network behind it would have to bring that along.
    """
    seen: list[object] = []
    handle = layer.register_forward_hook(lambda _module, _args, output: seen.append(output))
    try:
        run()
    finally:
        handle.remove()
    (output,) = seen
    if not isinstance(output, (tuple, list)):
        return None
    if any(value is not None for value in output[1:]):
        raise NotImplementedError(f"{type(layer).__name__} returns more than its hidden state.")
    return len(output) - 1
