"""What training adds to a network, put in and built again: the one place that knows how each kind is stored.

An addition has a name ("added_0", "added_1", ... in the order of the fits that made them), a record of plain values,
and tensors whose names contain its own: ``<module>.added_0.<rest>``, or ``<layer>.lora_A.added_0.weight``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from skembed.backbones.adapters import Adapter, GatedPrefix, SoftPrompt, attach_adapter, attach_prompt
from skembed.backbones.base import Backbone, Block
from skembed.backbones.blocks import first_tensor
from skembed.backbones.spec import TunedWeights, place_of
from skembed.exceptions import WeightsMismatchError

__all__ = [
    "add_adapters",
    "add_lora",
    "add_prefixes",
    "add_prompt",
    "apply_tuned",
    "require_packable",
    "require_room",
]

Record = dict[str, Any]
Tensors = Mapping[str, Tensor]


# -- put in, to be trained ----------------------------------------------------------------------------------


def add_lora(
    backbone: Backbone,
    blocks: Sequence[Block],
    name: str,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str] | None,
) -> Record:
    """Low-rank factors beside the layers of blocks, see `skembed.backbones.tuning.lora.inject`."""
    from skembed.backbones.tuning import lora

    lora.require_peft()
    names = lora.find_targets(backbone.module, blocks, targets, backbone.spec.name)
    lora.inject(backbone.module, names, name, rank=rank, alpha=alpha, dropout=dropout)
    return {"method": "lora", "scale": alpha / rank}


def add_adapters(backbone: Backbone, blocks: Sequence[Block], name: str, batch: Tensors, *, width: int) -> Record:
    """A bottleneck adapter behind each block, see `Adapter`.

    Parameters
    ----------
    backbone : Backbone
        Its module is changed in place.
    blocks : sequence of Block
        Those that are modules get one; a stem that is only parameters gets none.
    name : str
        Of the addition.
    batch : mapping of str to Tensor
        Any input, to see the shapes of what the blocks return.
    width : int
        Features of the bottleneck.

    Raises
    ------
    ValueError
        If none of the blocks is a module.
    """
    layouts = _layouts(backbone, blocks, batch)
    if not layouts:
        raise ValueError(
            f"Adapters stand behind blocks, and {backbone.spec.name} has none that would train and is a module of its "
            'own. Use strategy="lora" or "full", or more blocks.'
        )
    for host, (features, maps) in layouts.items():
        adapter = Adapter(features, width, maps=maps).to(_place(backbone.module))
        attach_adapter(backbone.module.get_submodule(host), name, adapter)
    _see_all_called(backbone, batch)
    return {"method": "adapter"}


def _see_all_called(backbone: Backbone, batch: Tensors) -> None:
    idle = {sub for sub in backbone.module.modules() if isinstance(sub, Adapter)}
    with torch.no_grad(), ExitStack() as stack:
        for adapter in list(idle):
            handle = adapter.register_forward_hook(lambda called, _args, _output: idle.discard(called))
            stack.callback(handle.remove)
        backbone.forward_blocks(batch, [len(backbone.blocks) - 1])
    if idle:
        raise ValueError(
            f"{backbone.spec.name} runs its blocks without calling them, so that nothing can stand behind them. "
            'Use strategy="lora" or "full".'
        )


def _layouts(backbone: Backbone, blocks: Sequence[Block], batch: Tensors) -> dict[str, tuple[int, bool]]:
    """For each block that is a module: features that it returns, and whether these are channels of a map."""
    modules, chosen = dict(backbone.module.named_modules()), {block.name for block in blocks}
    raw: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda _module, _args, output: raw.__setitem__(name, first_tensor(output))

    with torch.no_grad(), ExitStack() as stack:
        for block in backbone.blocks:
            if block.name in modules:
                stack.callback(modules[block.name].register_forward_hook(keep(block.name)).remove)
        tokens = backbone.forward_blocks(batch, range(len(backbone.blocks)))
    found: dict[str, tuple[int, bool]] = {}
    maps = False
    for block, seen in zip(backbone.blocks, tokens, strict=True):
        value = raw.get(block.name, seen.values)
        maps = _is_map(value, seen.values, maps)
        if block.name in modules:
            found[block.name] = (value.shape[1 if maps else -1], maps)
    return {name: layout for name, layout in found.items() if name in chosen}


def _is_map(raw: Tensor, tokens: Tensor, before: bool) -> bool:
    """Whether features are the second axis and not the last: the backbone's own flattening of it tells."""
    if raw.ndim != 4:
        return False
    width = tokens.shape[-1]
    if (raw.shape[1] == width) != (raw.shape[-1] == width):
        return raw.shape[1] == width
    rows = raw.flatten(2).transpose(1, 2)
    if rows.shape == tokens.shape and torch.equal(rows, tokens):
        return True
    rows = raw.flatten(1, 2)
    # Of the last block only the normalised output is known: then it is as the one below.
    return before and not (rows.shape == tokens.shape and torch.equal(rows, tokens))


def add_prefixes(backbone: Backbone, blocks: Sequence[Block], name: str, batch: Tensors, *, n_tokens: int) -> Record:
    """Gated keys and values in each attention of blocks, see `GatedPrefix`.

    Raises
    ------
    ValueError
        If the network's attention is not called through `skembed.backbones.attention`.
    """
    from skembed.backbones.attention import watch_attention

    require_packable(backbone, "prefix")
    names = {module: name for name, module in backbone.module.named_modules()}
    with torch.no_grad(), watch_attention() as seen:
        backbone.forward_blocks(batch, [len(backbone.blocks) - 1])
    hosts = [(module, shape) for module, *shape in seen if any(block.owns(names[module]) for block in blocks)]
    if not hosts:
        raise ValueError("A prefix needs a block with attention among those that train. Use a larger n_unfrozen.")
    for module, (heads, width) in hosts:
        module.add_module(name, GatedPrefix(heads, n_tokens, width).to(_place(backbone.module)))
    return {"method": "prefix"}


def add_prompt(backbone: Backbone, name: str, *, n_tokens: int) -> Record:
    """Virtual tokens behind each text, which begin as words of the vocabulary, see `SoftPrompt`."""
    require_packable(backbone, "prompt")
    words = backbone.module.get_input_embeddings()  # type: ignore[operator]
    drawn = torch.randint(words.num_embeddings, (n_tokens,))
    _put_prompt(backbone, words, name, words.weight.detach()[drawn.to(words.weight.device)].clone())
    return {"method": "prompt"}


def require_packable(backbone: Backbone, method: str) -> None:
    """Refuse networks whose attention is not called through `skembed.backbones.attention`."""
    from skembed.backbones.attention import PACKABLE, is_packable

    if not is_packable(backbone.module):
        raise ValueError(
            f"strategy={method!r} works with text backbones of the families {', '.join(PACKABLE)}, and "
            f'{backbone.spec.name} is none of them. Use "lora" or "adapter", which work with all.'
        )


def require_room(backbone: Any, n_tokens: int, options: Any) -> None:
    """Refuse a prompt that leaves nothing of what is read to the text.

    Parameters
    ----------
    backbone : TextBackbone
        With tokens and positions.
    n_tokens : int
        Of the prompt.
    options : TextOptions
        How texts are prepared.
    """
    length, room, positions = backbone.length_read(options), backbone.room(options), backbone.n_positions
    if n_tokens < room:
        return
    remedies = [f"n_virtual_tokens up to {room - 1}; 10 to 20 are usual"] if room > 1 else []
    if positions is None or length < positions:
        remedies.append("a larger max_length" + ("" if positions is None else f", up to {positions}"))
    raise ValueError(
        f"n_virtual_tokens={n_tokens} leaves no room for text: a prompt takes its places of the tokens that are read. "
        f"{backbone.spec.name} reads {length} tokens, {length - room} of them special, which leaves {room} to text and "
        f"prompt. Use {'; or '.join(remedies) or 'another strategy'}."
    )


def _put_prompt(backbone: Any, words: nn.Embedding, name: str, values: Tensor) -> None:
    """Prompts stand last, so that the words of a text keep their positions; they are read and not pooled."""
    first = attach_prompt(words, name, SoftPrompt(values))
    place = next(path for path, module in backbone.module.named_modules() if module is words)
    ids = [*range(first, first + len(values))]
    backbone.suffix, backbone.first_virtual_token = [*backbone.suffix, *ids], words.num_embeddings
    stem, *rest = backbone.blocks
    backbone.blocks = (Block(stem.name, (*stem.prefixes, f"{place}.{name}")), *rest)


# -- built again, to be used --------------------------------------------------------------------------------


def apply_tuned(backbone: Backbone, tuned: TunedWeights) -> None:
    """Make a backbone what fine-tuning made of it. No tensor is written to: changed ones take the place of others.

    Parameters
    ----------
    backbone : Backbone
        The base, as it was loaded; `module`, but not its tensors, is its own.
    tuned : TunedWeights
        Of this base.

    Raises
    ------
    WeightsMismatchError
        If the network has no such tensors, or they were added in a way that is not known here.
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
        _replace(backbone.module, name, value)
    for key, record in tuned.added.items():
        build = _BUILDERS.get(record["method"])
        if build is None:
            raise WeightsMismatchError(
                f"{backbone.spec.name} was fine-tuned with {record['method']!r}, which this version of skembed does "
                "not know. Install the version that it was fitted with, or a later one."
            )
        try:
            # Filled at once, but drawn first: torch's random state is the user's.
            with torch.random.fork_rng(devices=[]):
                build(backbone, key, record, added[key])
        except (AttributeError, KeyError) as error:
            raise _other_network(backbone, next(iter(added[key])), "no place for") from error
    backbone.fingerprint = tuned.fingerprint


def _other_network(backbone: Backbone, name: str, has: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        f"{backbone.spec.name} has {has} {name!r}, which was fine-tuned: it is read differently by the "
        "libraries installed here. Install the versions that it was trained with, or fit again."
    )


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a value, in the type and on the device of the old one, in the place of a parameter or buffer."""
    owner, _, leaf = name.rpartition(".")
    host = module.get_submodule(owner)
    old = getattr(host, leaf)
    new = value.to(old.device, old.dtype)
    if leaf in host._parameters:
        host._parameters[leaf] = nn.Parameter(new, requires_grad=False)
    else:
        host._buffers[leaf] = new


def _merge_lora(backbone: Backbone, _key: str, record: Record, tensors: Tensors) -> None:
    """W + scale B A in place of W, added in float32: what a linear map computes does not tell how it was trained."""
    from skembed.backbones.tuning.lora import low_rank_change, split_factor

    pairs: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        found = split_factor(name)
        if found is None:
            raise KeyError(name)
        pairs.setdefault(found[0], {})[found[1]] = value
    for host, pair in pairs.items():
        layer: Any = backbone.module.get_submodule(host)
        change = low_rank_change(layer, pair["A"], pair["B"], record["scale"])
        _replace(backbone.module, f"{host}.weight", layer.weight.float() + change.to(layer.weight.device))


def _build_adapters(backbone: Backbone, key: str, _record: Record, tensors: Tensors) -> None:
    for host, held in _by_host(tensors).items():
        inner, features, *rest = held["down.weight"].shape
        adapter = Adapter(features, inner, maps=bool(rest))
        attach_adapter(backbone.module.get_submodule(host), key, _filled(adapter, held, backbone))


def _build_prefixes(backbone: Backbone, key: str, _record: Record, tensors: Tensors) -> None:
    for host, held in _by_host(tensors).items():
        prefix = GatedPrefix(*held["keys"].shape)
        backbone.module.get_submodule(host).add_module(key, _filled(prefix, held, backbone))


def _build_prompt(backbone: Backbone, key: str, _record: Record, tensors: Tensors) -> None:
    for host, held in _by_host(tensors).items():
        words: Any = backbone.module.get_submodule(host)
        _put_prompt(backbone, words, key, held["values"].to(words.weight.device, words.weight.dtype))
        getattr(words, key).requires_grad_(False)


_BUILDERS: dict[str, Callable[[Backbone, str, Record, Tensors], None]] = {
    "lora": _merge_lora,
    "adapter": _build_adapters,
    "prefix": _build_prefixes,
    "prompt": _build_prompt,
}


def _by_host(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    """Tensors by the module that they were added to, and by the rest of their names."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        place = place_of(name)
        assert place is not None
        found.setdefault(place.host, {})[place.rest] = value
    return found


def _filled(module: Any, tensors: Tensors, backbone: Backbone) -> Any:
    module.load_state_dict(dict(tensors))
    return module.to(_place(backbone.module)).to(next(backbone.module.parameters()).dtype).eval().requires_grad_(False)


def _place(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
