"""The reader of CTranslate2's binaries: what is written comes back, and nothing else passes for it."""

from __future__ import annotations

import itertools
import math
import struct

import numpy as np
import pytest

from skembed.backbones.weights.ctranslate2 import read_variables, whisper_encoder_state
from skembed.exceptions import IntegrityError

FUSED = "encoder/layer_0/self_attention/linear_0"


def _binary(variables: dict[str, np.ndarray], aliases: dict[str, str]) -> bytes:
    """As CTranslate2 writes it."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    numbers = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    parts = [struct.pack("<I", 6), string("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        parts += [string(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", numbers[value.dtype.name], value.nbytes), value.tobytes()]
    parts += [struct.pack("<I", len(aliases)), *(string(name) for pair in aliases.items() for name in pair)]
    return b"".join(parts)


def _small_variables() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "encoder/a": rng.standard_normal((2, 3)).astype(np.float16),
        "decoder/a": rng.standard_normal((2, 2)).astype(np.float32),
        "encoder/num_heads": np.array(6, dtype=np.int16),
        "encoder/empty": np.empty((0, 3), dtype=np.int32),
    }


def test_variables_come_back_as_they_were(tmp_path):
    variables = _small_variables()
    path = tmp_path / "model.bin"
    path.write_bytes(_binary(variables, {"encoder/same": "encoder/a"}))
    found = read_variables(path, prefix="encoder/")
    assert list(found) == ["encoder/a", "encoder/num_heads", "encoder/empty", "encoder/same"]
    for name in found.keys() & variables.keys():
        np.testing.assert_array_equal(found[name], variables[name], strict=True)
    np.testing.assert_array_equal(found["encoder/same"], variables["encoder/a"])
    assert read_variables(path)["decoder/a"].dtype == np.float32


def test_a_binary_cut_anywhere_is_refused(tmp_path):
    whole = _binary(_small_variables(), {"encoder/same": "encoder/a"})
    path = tmp_path / "model.bin"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="ends in the middle"):
            read_variables(path)


def test_nonsense_is_refused_or_read_but_nothing_else(tmp_path):
    """Whatever byte is changed: arrays or an IntegrityError, and never more memory than the file is long."""
    whole = _binary(_small_variables(), {"encoder/same": "encoder/a"})
    path = tmp_path / "model.bin"
    refused = 0
    for position in range(len(whole)):
        for value in (0, 1, 64, 127, 255):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                assert sum(array.nbytes for array in read_variables(path).values()) < 2 * len(whole)
            except IntegrityError:
                refused += 1
    assert refused > len(whole)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff" * 100, "version 4294967295"),
        (_binary({"a": np.zeros((1,) * 40, np.int8)}, {}), "type 1 and shape"),
        # Too large for 64 bits: the product would wrap around to 0.
        (struct.pack("<IHxIIHcxB3IBI", 6, 1, 3, 1, 2, b"a", 3, 2**31, 2**31, 4, 1, 0), "cannot have 0 bytes"),
        (_binary({"a": np.zeros(2, np.int8), "b": np.zeros(2, np.int8)}, {}).replace(b"b", b"a"), "comes twice"),
    ],
    ids=["version", "axes", "size", "twice"],
)
def test_other_files_are_refused(tmp_path, content, words):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=words):
        read_variables(path)


_WIDTH, _INNER, _MELS, _TIME = 4, 8, 5, 6


def _tiny_encoder() -> dict[str, np.ndarray]:
    """Variables of a Whisper encoder with one layer; every number in them is another, but the zeros of the keys."""
    linear = {
        "self_attention/linear_0": (3 * _WIDTH, _WIDTH),
        "self_attention/linear_1": (_WIDTH, _WIDTH),
        "ffn/linear_0": (_INNER, _WIDTH),
        "ffn/linear_1": (_WIDTH, _INNER),
    }
    norms = ("layer_norm", "layer_0/self_attention/layer_norm", "layer_0/ffn/layer_norm")
    shapes = {
        "conv1/weight": (_WIDTH, _MELS, 3),
        "conv1/bias": (_WIDTH,),
        "conv2/weight": (_WIDTH, _WIDTH, 3),
        "conv2/bias": (_WIDTH,),
        "position_encodings/encodings": (_TIME, _WIDTH),
        **{f"layer_0/{name}/weight": shape for name, shape in linear.items()},
        **{f"layer_0/{name}/bias": shape[:1] for name, shape in linear.items()},
        **{f"{norm}/{kind}": (_WIDTH,) for norm in norms for kind in ("gamma", "beta")},
    }
    numbers = itertools.count(1)
    variables = {
        f"encoder/{name}": np.fromiter(numbers, np.float32, math.prod(shape)).reshape(shape)
        for name, shape in shapes.items()
    }
    variables[f"{FUSED}/bias"][_WIDTH : 2 * _WIDTH] = 0
    return variables


def test_names_and_shapes_are_those_of_transformers():
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=_WIDTH,
        encoder_layers=1,
        encoder_attention_heads=1,
        encoder_ffn_dim=_INNER,
        num_mel_bins=_MELS,
        max_source_positions=_TIME,
    )
    expected = {name: tuple(value.shape) for name, value in WhisperEncoder(config).state_dict().items()}
    state = whisper_encoder_state(_tiny_encoder())
    assert {name: value.shape for name, value in state.items()} == expected


def test_nothing_is_lost_or_taken_twice():
    """Equal shapes could hide that two tensors changed places."""
    variables = _tiny_encoder()
    state = whisper_encoder_state(variables)
    for name, theirs in {
        "layers.0.self_attn_layer_norm.weight": "layer_0/self_attention/layer_norm/gamma",
        "layers.0.final_layer_norm.bias": "layer_0/ffn/layer_norm/beta",
        "layer_norm.weight": "layer_norm/gamma",
        "layers.0.self_attn.out_proj.weight": "layer_0/self_attention/linear_1/weight",
    }.items():
        np.testing.assert_array_equal(state[name], variables[f"encoder/{theirs}"])
    parts = [state[f"layers.0.self_attn.{letter}_proj.weight"] for letter in "qkv"]
    np.testing.assert_array_equal(np.concatenate(parts), variables[f"{FUSED}/weight"])
    given = np.concatenate([value.ravel() for value in variables.values()])
    taken = np.concatenate([value.ravel() for value in state.values()])
    np.testing.assert_array_equal(np.sort(taken), np.sort(given[given != 0]))


def test_another_network_is_no_whisper_encoder():
    with pytest.raises(IntegrityError, match="key bias"):
        whisper_encoder_state(_tiny_encoder() | {f"{FUSED}/bias": np.ones(3 * _WIDTH, np.float32)})
    with pytest.raises(IntegrityError, match=r"weight of shape \(7, 4\)"):
        whisper_encoder_state(_tiny_encoder() | {f"{FUSED}/weight": np.ones((7, 4), np.float32)})
    incomplete = _tiny_encoder()
    del incomplete["encoder/layer_0/ffn/layer_norm/beta"]
    with pytest.raises(IntegrityError, match=r"lack '.*layer_0/ffn/layer_norm/beta'"):
        whisper_encoder_state(incomplete)
