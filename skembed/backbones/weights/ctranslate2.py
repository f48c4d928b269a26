"""Reader of CTranslate2's binary format, with transformers' names of tensors.

The file is little-endian: a version, the name and revision of the model's specification, the number of variables,
and for each of them a name, a shape, a type and its bytes; aliases of variables follow.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from skembed.exceptions import IntegrityError

__all__ = ["read_variables", "whisper_encoder_state"]

_VERSION = 6
#: By the number that stands for each in the file.
_DTYPES = tuple(np.dtype(code) for code in ("<f4", "i1", "<i2", "<i4", "<f2"))
#: No tensor of a network has more axes; NumPy itself refuses more than 64.
_MOST_AXES = 8


class _Reader:
    """Position in bytes that cannot go beyond their end."""

    def __init__(self, content: bytes, path: Path):
        self.content = content
        self.path = path
        self.position = 0

    def bytes(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.content):
            raise IntegrityError(f"{self.path} ends in the middle of its variables. Install its package again.")
        part = memoryview(self.content)[self.position : end]
        self.position = end
        return part

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return bytes(self.bytes(self.number("H"))).rstrip(b"\0").decode("utf-8", "replace")


def read_variables(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the variables of a CTranslate2 model whose names start with `prefix`.

    Parameters
    ----------
    path : Path
        The model.bin.
    prefix : str, default=""
        For example "encoder/".

    Returns
    -------
    dict of str to ndarray
        Read-only views of the file's bytes.

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
        if (
            code >= len(_DTYPES)
            or len(shape) > _MOST_AXES
            or size != _DTYPES[code].itemsize * math.prod(shape)
            or name in variables
        ):
            raise IntegrityError(
                f"{path}: variable {name!r} of type {code} and shape {shape} cannot have {size} bytes, or comes twice."
            )
        variables[name] = np.frombuffer(content, dtype=_DTYPES[code]).reshape(shape)
    for _ in range(reader.number("I")):
        alias, name = reader.string(), reader.string()
        if alias.startswith(prefix) and name in variables:
            variables[alias] = variables[name]
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
    """Return the state dict of transformers' WhisperEncoder from a model's variables.

    Parameters
    ----------
    variables : dict of str to ndarray
        As `read_variables` gives them with ``prefix="encoder/"``.

    Returns
    -------
    dict of str to ndarray
        Views of the same arrays, in the precision that they came in. The key projection has no bias in Whisper;
        the zeros that stand for it are left out.

    Raises
    ------
    IntegrityError
        If a variable is missing, or those of the attention are not what a Whisper encoder has.
    """
    try:
        return _whisper_encoder_state(variables)
    except KeyError as error:
        raise IntegrityError(
            f"The variables of this file lack {error} of a Whisper encoder. Install its package again."
        ) from error


def _whisper_encoder_state(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
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
        state |= _attention(f"layers.{i}.self_attn", encoder, f"layer_{i}/self_attention/linear_0")
    return state


def _norm(ours: str, encoder: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    return {f"{ours}.weight": encoder[f"{theirs}/gamma"], f"{ours}.bias": encoder[f"{theirs}/beta"]}


def _attention(ours: str, encoder: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    """Return query, key and value, which are stacked in one variable."""
    weight, bias = encoder[f"{theirs}/weight"], encoder[f"{theirs}/bias"]
    if weight.ndim != 2 or weight.shape[0] != 3 * weight.shape[1] or bias.shape != weight.shape[:1]:
        raise IntegrityError(
            f"{theirs} has a weight of shape {weight.shape} and a bias of shape {bias.shape}; "
            "query, key and value of a Whisper encoder would be (3 * width, width) and (3 * width,)."
        )
    (q, k, v), (q_bias, k_bias, v_bias) = np.split(weight, 3), np.split(bias, 3)
    if k_bias.any():
        raise IntegrityError(f"{theirs} has a key bias, which Whisper does not: it was converted from another network.")
    return {
        f"{ours}.q_proj.weight": q, f"{ours}.q_proj.bias": q_bias,
        f"{ours}.k_proj.weight": k,
        f"{ours}.v_proj.weight": v, f"{ours}.v_proj.bias": v_bias,
    }  # fmt: skip
