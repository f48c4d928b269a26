"""Bounds on the memory that a backbone's files can make libraries allocate."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from skembed.backbones.weights.files import read_json
from skembed.exceptions import BackboneReadError

__all__ = ["StoredWeights", "check_sizes", "limit_network", "read_headers", "rehearse"]

#: The limit of the safetensors library itself.
_MAX_HEADER_BYTES = 100_000_000
#: Largest integer in a configuration of weights with fewer values, and layers beside fewer tensors.
_MAX_INTEGER, _MAX_LAYERS = 100_000_000, 1000
#: Integers that allocate nothing.
_NO_SIZE = re.compile(r"(^|_)(ids?|theta|seed|base|length|token|index)$")
_LAYERS = re.compile(r"(^|_)(layers?|depths?|blocks|stages|groups)$")
_POSITIVE = re.compile(
    r"^(.*_)?(n_heads?|num_heads|attention_heads|key_value_heads|head_dim|hidden_sizes?|intermediate_size|d_model|"
    r"embed_dims?|n_embd|num_hidden_layers|encoder_layers|n_layers?|patch_size|conv_kernel|conv_stride)$|^vocab_size$"
)
_RANGES = {
    **dict.fromkeys(("image_size", "img_size", "input_size"), 16_384),
    "sampling_rate": 1_000_000,
    "num_mel_bins": 4096,
}
#: Sizes that mean something else, or nothing, outside a preprocessor's configuration.
_PREPROCESSOR_RANGES = {
    **_RANGES,
    **dict.fromkeys(("size", "crop_size", "height", "width", "shortest_edge"), 16_384),
    **dict.fromkeys(("n_fft", "hop_length"), 65_536),
    "feature_size": 4096,
    "chunk_length": 3600,
    "max_length": 100_000,
    "n_samples": 100_000_000,
    "nb_max_frames": 1_000_000,
}
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
#: Their keys are names of classes and tasks.
_FREE_SECTIONS = {"id2label", "label2id", "task_specific_params"}


class StoredWeights(NamedTuple):
    """Number of tensors in the files of a directory, and of values in them."""

    n_tensors: int
    n_values: int


def read_headers(directory: Path) -> StoredWeights:
    """Count the tensors of a directory's safetensors files by their headers alone.

    Raises
    ------
    BackboneReadError
        If a header is damaged, or a file shorter than its header says.
    """
    sizes = [size for path in sorted(directory.glob("*.safetensors")) for size in _tensor_sizes(path)]
    return StoredWeights(len(sizes), sum(sizes))


def _tensor_sizes(path: Path) -> list[int]:
    total = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(total - 8, _MAX_HEADER_BYTES):
            raise _damaged(path, "its header is cut off")
        content = file.read(length)
    try:
        header = json.loads(content)
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        tensors = [(math.prod(map(int, entry["shape"])), *map(int, entry["data_offsets"])) for entry in entries]
        sizes = [size for size, start, end in tensors if 0 <= size <= 2 * (end - start)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, "its header is not valid") from error
    missing = max((end for _, _, end in tensors), default=0) - (total - 8 - length)
    if missing > 0:
        raise _damaged(path, f"{missing} bytes are missing at its end")
    if len(sizes) < len(tensors):
        raise _damaged(path, "shapes and sizes of its tensors contradict each other")
    return sizes


def _damaged(path: Path, reason: str) -> BackboneReadError:
    return BackboneReadError(f"{path} is not a complete safetensors file: {reason}. Download the backbone again.")


def check_sizes(directory: Path) -> None:
    """Refuse impossible sizes in configurations before a library uses them.

    Parameters
    ----------
    directory : Path
        With config.json, weights, and perhaps preprocessor_config.json or processor_config.json.

    Raises
    ------
    BackboneReadError
        Names the file, the key, its value and the range that is allowed.
    """
    stored = read_headers(directory)
    path = directory / "config.json"
    for key, value in _entries(read_json(path)):
        if key in _RANGES:
            _check_range(path, key, value, _RANGES[key])
        elif _POSITIVE.search(key):
            _check_range(path, key, value, max(stored.n_values, _MAX_INTEGER))
        if stored.n_tensors and _LAYERS.search(key):
            _check_limit(path, key, value, max(stored.n_tensors, _MAX_LAYERS))
        elif stored.n_tensors and not _NO_SIZE.search(key):
            _check_limit(path, key, value, max(stored.n_values, _MAX_INTEGER))
    for path in (directory / name for name in _PREPROCESSORS):
        for key, value in _entries(read_json(path)):
            if key in _PREPROCESSOR_RANGES and not isinstance(value, dict):
                _check_range(path, key, value, _PREPROCESSOR_RANGES[key])


def _entries(section: Any) -> Iterator[tuple[str, Any]]:
    """Yield keys and values of a configuration, at any depth."""
    pending = [section]
    while pending:
        section = pending.pop()
        if isinstance(section, dict):
            yield from section.items()
            pending += [value for key, value in section.items() if key not in _FREE_SECTIONS]
        elif isinstance(section, list):
            pending += section


def _numbers(value: Any) -> list[Any]:
    """Return all items of nested lists, or the value itself, without None."""
    items, pending = [], [value]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif value is not None:
            items.append(value)
    return items


def _check_range(path: Path, key: str, value: Any, most: int) -> None:
    for number in _numbers(value):
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
            raise BackboneReadError(
                f"{path} has {key}={_short(value)}, which must be a positive integer of at most {most}. "
                "Download the backbone again."
            )


def _check_limit(path: Path, key: str, value: Any, most: int) -> None:
    numbers = [number for number in _numbers(value) if isinstance(number, (int, float))]
    if any(abs(number) > most for number in numbers):
        raise BackboneReadError(
            f"{path} has {key}={_short(value)}, more than {most}, which its weights cannot fill. "
            "Download the backbone again."
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Meter:
    """Counts of the contents of networks that one thread builds.

    Parameters
    ----------
    directory : Path
        Named in the message.
    stored : StoredWeights
        Content of its files.
    """

    def __init__(self, directory: Path, stored: StoredWeights):
        self._path, self._thread = directory / "config.json", threading.get_ident()
        # Tied tables are built twice and stored once; norms of weights are registered beside them for a moment.
        self._most = {
            "parameters": 2 * stored.n_tensors + 1000,
            "values": 2 * stored.n_values + 1_000_000,
            "buffered values": 2 * stored.n_values + 100_000_000,
            "modules": 20 * stored.n_tensors + 10_000,
        }
        self._counts = dict.fromkeys(self._most, 0)

    def parameter(self, module: Any, name: str, value: Any) -> None:
        replaced = module._parameters.get(name)
        self._add("parameters", (value is not None) - (replaced is not None))
        self._add("values", _count(value) - _count(replaced))

    def buffer(self, module: Any, name: str, value: Any) -> None:
        self._add("buffered values", _count(value) - _count(module._buffers.get(name)))

    def module(self, module: Any, name: str, value: Any) -> None:
        self._add("modules", int(module._modules.get(name) is None))

    def _add(self, what: str, count: int) -> None:
        if threading.get_ident() != self._thread:
            return
        self._counts[what] += count
        if self._counts[what] > self._most[what]:
            raise BackboneReadError(
                f"{self._path} describes a network of more than {self._most[what]} {what}, which the weights beside it "
                "cannot fill. Is it the configuration of another network?"
            )


def _count(value: Any) -> int:
    return 0 if value is None or hasattr(value, "materialize") else value.numel()


@contextmanager
def limit_network(directory: Path) -> Iterator[None]:
    """Refuse networks that are much larger than their weights, while a library builds them.

    Parameters
    ----------
    directory : Path
        With safetensors.

    Raises
    ------
    BackboneReadError
        As soon as the network has more parameters, values, buffers or modules than the weights can fill.
    """
    from torch.nn.modules import module as registration

    meter = _Meter(directory, read_headers(directory))
    with ExitStack() as hooks:
        for handle in (
            registration.register_module_parameter_registration_hook(meter.parameter),
            registration.register_module_buffer_registration_hook(meter.buffer),
            registration.register_module_module_registration_hook(meter.module),
        ):
            hooks.callback(handle.remove)
        yield


def rehearse(directory: Path, build: Callable[[], Any]) -> None:
    """Build a network on torch's meta device, to check its sizes against the weights.

    Parameters
    ----------
    directory : Path
        With safetensors.
    build : callable
        Builds the network. Errors of its own are left to the build that follows: some networks cannot be built
        on the meta device.

    Raises
    ------
    BackboneReadError
        If the network is much larger than the weights.
    """
    import torch

    try:
        with limit_network(directory), torch.device("meta"):
            build()
    except BackboneReadError:
        raise
    except Exception:
        return
