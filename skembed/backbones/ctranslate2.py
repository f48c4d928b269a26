"""Reading the binary in which CTranslate2 stores a model, and naming its tensors as transformers does.

The file is little-endian: a version, the name and revision of the model's specification, the number of variables,
and for each of them a name, a shape, a type and its bytes; aliases of variables follow.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from skembed.exceptions import IntegrityError

__all__ = ["read_variables", "whisper_encoder_state"]

_VERSION = 6
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


class _Reader:
    """A position in bytes that cannot leave them."""

    def __init__(self, content: bytes, path: Path):
        self.content = content
        self.path = path
        self.position = 0

    def bytes(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.content):
            raise IntegrityError(f"{self.path} ends in the middle of a variable. Install its package again.")
        part = memoryview(self.content)[self.position : end]
        self.position = end
        return part

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return bytes(self.bytes(self.number("H"))).rstrip(b"\0").decode("utf-8", "replace")


def read_variables(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 model whose names start with `prefix`.

    Parameters
    ----------
    path : Path
        The model.bin.
    prefix : str, default=""
        For example "encoder/".

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    IntegrityError
        If the file is no such model, or ends too early.
    """
    reader = _Reader(path.read_bytes(), path)
    version = reader.number("I")
    if version != _VERSION:
        raise IntegrityError(f"{path} has version {version} of CTranslate2's format; {_VERSION} was expected.")
    reader.string(), reader.number("I")  # the specification's name and revision
    variables = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        shape = tuple(reader.number("I") for _ in range(reader.number("B")))
        code, size = reader.number("B"), reader.number("I")
        content = reader.bytes(size)
        if not name.startswith(prefix):
            continue
        if code >= len(_DTYPES) or size != np.dtype(_DTYPES[code]).itemsize * int(np.prod(shape)):
            raise IntegrityError(
                f"{path}: variable {name!r} of type {code} and shape {shape} cannot have {size} bytes."
            )
        variables[name] = np.frombuffer(content, dtype=_DTYPES[code]).reshape(shape)
    return variables


#: Names inside a layer, ours to theirs. The fused query, key and value are taken apart separately.
_LAYER = {
    "self_attn.out_proj": "self_attention/linear_1",
    "self_attn_layer_norm": "self_attention/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
    "final_layer_norm": "ffn/layer_norm",
}


def whisper_encoder_state(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of transformers' WhisperEncoder from the variables of a Whisper model.

    Parameters
    ----------
    variables : dict of str to ndarray
        As `read_variables` gives them with ``prefix="encoder/"``.

    Returns
    -------
    dict of str to ndarray
        The key projection has no bias in Whisper; the zeros that stand for it are left out.
    """
    encoder = {name.removeprefix("encoder/"): value for name, value in variables.items()}
    state = {"embed_positions.weight": encoder["position_encodings/encodings"]}
    for name in ("conv1", "conv2"):
        state |= {f"{name}.{part}": encoder[f"{name}/{part}"] for part in ("weight", "bias")}
    state |= _norm("layer_norm", encoder, "layer_norm")
    depth = sum(name.startswith("layer_") and name.endswith("ffn/linear_0/weight") for name in encoder)
    for i in range(depth):
        for ours, theirs in _LAYER.items():
            ours, theirs = f"layers.{i}.{ours}", f"layer_{i}/{theirs}"
            if theirs.endswith("layer_norm"):
                state |= _norm(ours, encoder, theirs)
            else:
                state |= {f"{ours}.{part}": encoder[f"{theirs}/{part}"] for part in ("weight", "bias")}
        fused = f"layer_{i}/self_attention/linear_0"
        weights, biases = np.split(encoder[f"{fused}/weight"], 3), np.split(encoder[f"{fused}/bias"], 3)
        for letter, weight, bias in zip("qkv", weights, biases, strict=True):
            state[f"layers.{i}.self_attn.{letter}_proj.weight"] = weight
            if letter != "k":
                state[f"layers.{i}.self_attn.{letter}_proj.bias"] = bias
    return state


def _norm(ours: str, encoder: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    return {f"{ours}.weight": encoder[f"{theirs}/gamma"], f"{ours}.bias": encoder[f"{theirs}/beta"]}
