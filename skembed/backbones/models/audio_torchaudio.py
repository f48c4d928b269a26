"""Speech models of `torchaudio.pipelines`: wav2vec 2.0, HuBERT and WavLM.

torchaudio publishes pickled state dicts. They are read once with ``weights_only=True`` and kept as a directory of
config.json and safetensors, which is what the adapter reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchaudio
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchaudio.pipelines import Wav2Vec2Bundle

from skembed.backbones.blocks import blocks_from_layers
from skembed.backbones.models.audio_waveform import WaveformBackbone
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights.bundled import is_published, materialize_directory
from skembed.backbones.weights.files import read_json, require_safetensors
from skembed.backbones.weights.size_limits import rehearse
from skembed.backbones.weights.vetting import reading
from skembed.exceptions import BackboneNotFoundError

__all__ = ["TorchaudioBackbone", "open_backbone", "prepare_bundle", "torchaudio_bundles"]

_BUILDERS = {"Wav2Vec2": "wav2vec2_model", "WavLM": "wavlm_model"}


@dataclass(kw_only=True)
class TorchaudioBackbone(WaveformBackbone):
    """`torchaudio.models.Wav2Vec2Model` without its output layer."""

    def _convolve(self, waveforms: Tensor) -> Tensor:
        module: Any = self.module
        return module.feature_extractor(waveforms, None)[0]


def torchaudio_bundles() -> list[str]:
    """Return the names of the bundles whose networks give speech embeddings."""
    return sorted(name for name, bundle in vars(torchaudio.pipelines).items() if isinstance(bundle, Wav2Vec2Bundle))


def prepare_bundle(name: str, cache_directory: Path) -> Path:
    """Return a torchaudio bundle as a directory with safetensors; download it once.

    Parameters
    ----------
    name : str
        One of `torchaudio_bundles`.
    cache_directory : Path
        Parent of the directories of bundles.

    Returns
    -------
    Path

    Raises
    ------
    BackboneNotFoundError
        If its weights are neither here nor to be downloaded.
    """
    target = cache_directory / name
    if is_published(target):
        return target
    bundle = getattr(torchaudio.pipelines, name)
    try:
        state = bundle._get_state_dict({"weights_only": True})
    except OSError as error:
        raise BackboneNotFoundError(
            f"The weights of torchaudio's {name} are not on this machine and cannot be downloaded: {error}. Fetch them "
            f'once on a machine with access (AudioEmbedder("{name}").fit([...])) and copy {cache_directory}.'
        ) from error
    config = {
        "library_name": "torchaudio",
        "builder": _BUILDERS[bundle._model_type],
        "args": {**bundle._params, "aux_num_out": None},
        "sampling_rate": int(bundle.sample_rate),
        "normalize": bool(bundle._normalize_waveform),
    }

    def write(directory: Path) -> None:
        save_file(
            {key: value.contiguous() for key, value in state.items() if not key.startswith("aux.")},
            directory / "model.safetensors",
        )
        (directory / "config.json").write_text(json.dumps(config, indent=2))

    return materialize_directory(target, write)


def open_backbone(spec: BackboneSpec, directory: Path, fingerprint: str) -> TorchaudioBackbone:
    """Read a torchaudio model from a directory that `prepare_bundle` wrote.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity.
    directory : Path
        With config.json ("builder", "args", "sampling_rate", "normalize") and model.safetensors.
    fingerprint : str
        Digest of the directory.

    Raises
    ------
    BackboneNotFoundError
        If the weights are not those of the configuration.
    """
    require_safetensors(directory)
    config = read_json(directory / "config.json")
    if config.get("builder") not in _BUILDERS.values():
        raise BackboneNotFoundError(
            f"{directory}: builder={config.get('builder')!r} is not one of {sorted(_BUILDERS.values())}."
        )
    arguments: Any = config.get("args")
    if not isinstance(arguments, dict):
        raise BackboneNotFoundError(
            f"{directory / 'config.json'}: args must be a dict of arguments, got a {type(arguments).__name__}."
        )
    builder = getattr(torchaudio.models, config["builder"])
    with reading(directory / "config.json"):
        rehearse(directory, lambda: builder(**arguments))
        module: nn.Module = builder(**arguments)
    try:
        module.load_state_dict(load_file(directory / "model.safetensors"))
    except RuntimeError as error:
        raise BackboneNotFoundError(f"The weights in {directory} are not those of its config.json: {error}") from error
    module.eval().requires_grad_(False)
    transformer: Any = module.get_submodule("encoder.transformer")
    # No dropped layers, even in training mode: a recorded layer is one that ran.
    transformer.layer_drop = 0.0
    names = [f"encoder.transformer.layers.{i}" for i in range(len(transformer.layers))]
    convolutions = [(kernel, stride) for _, kernel, stride in arguments["extractor_conv_layer_config"]]
    return TorchaudioBackbone(
        spec=spec,
        module=module,
        width=arguments["encoder_embed_dim"],
        # torchaudio's flag here says that the norm comes before the layers, and then it is the stem's.
        blocks=blocks_from_layers(
            module, names, top=() if transformer.layer_norm_first else ("encoder.transformer.layer_norm",)
        ),
        fingerprint=fingerprint,
        sampling_rate=config["sampling_rate"],
        transformer="encoder.transformer",
        projection="encoder.feature_projection",
        norm_first=not transformer.layer_norm_first,
        # A group norm runs over time.
        sees_padding=arguments["extractor_mode"] == "group_norm",
        convolutions=convolutions,
        normalize_input=config["normalize"],
        epsilon=1e-5,
    )
