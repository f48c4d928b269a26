"""Every family through the one seam, against a plain loop on the library underneath."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.backbones.base import AudioOptions, TextOptions
from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from tests.backbones.tiny import BUILDERS, MODALITY, samples

EMBEDDERS = {
    "text": (TextEmbedder, TextOptions(), {}),
    "image": (ImageEmbedder, None, {}),
    "audio": (AudioEmbedder, AudioOptions(), {"sampling_rate": 16000}),
}
FAMILIES = pytest.mark.parametrize("family", BUILDERS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Directory, plain loop and modality of a family, built once."""
    built = {}

    def get(family):
        if family not in built:
            directory = tmp_path_factory.mktemp(family)
            built[family] = (directory, BUILDERS[family](directory), MODALITY[family])
        return built[family]

    return get


def _embedder(directory, modality, **parameters):
    cls, _, own = EMBEDDERS[modality]
    return cls(str(directory), device="cpu", precision="float32", **own, **parameters)


def _outputs(backbone, modality, layers):
    items = [windows[0] for windows in backbone.preprocess(samples(modality)[:1], EMBEDDERS[modality][1])]
    with torch.inference_mode():
        return [tokens.values.clone() for tokens in backbone.forward_blocks(backbone.collate(items), layers)]


@FAMILIES
def test_rows_equal_a_plain_loop(tiny, family):
    directory, plain, modality = tiny(family)
    rows = _embedder(directory, modality).fit_transform(samples(modality))
    expected = np.stack([plain(sample) for sample in samples(modality)])
    assert rows.shape == expected.shape
    cosine = (rows * expected).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.99999
    np.testing.assert_allclose(rows, expected, atol=2e-4 * np.abs(expected).max())


@FAMILIES
def test_every_layer_is_readable_and_batches_do_not_matter(tiny, family):
    directory, _, modality = tiny(family)
    embedder = _embedder(directory, modality, layers="all", pooling="mean")
    together = embedder.fit_transform(samples(modality))
    assert np.isfinite(together).all()
    scale = np.abs(together).max()
    alone = np.vstack([embedder.transform([sample]) for sample in samples(modality)])
    np.testing.assert_allclose(alone, together, atol=2e-5 * scale)
    order = [3, 0, 4, 2, 1]
    np.testing.assert_allclose(
        embedder.set_params(batch_size=2).transform([samples(modality)[i] for i in order]),
        together[order],
        atol=2e-5 * scale,
    )


@FAMILIES
def test_every_parameter_is_in_one_block(tiny, family):
    directory, _, modality = tiny(family)
    backbone = open_spec(BackboneSpec(modality, str(directory)))
    for name, _ in backbone.module.named_parameters():
        assert sum(block.owns(name) for block in backbone.blocks) == 1, name


@FAMILIES
def test_blocks_are_in_their_true_order(tiny, family):
    """Disturbing block k changes layer k and those above, and not one bit below."""
    directory, _, modality = tiny(family)
    backbone = open_spec(BackboneSpec(modality, str(directory)))
    # Of a network that may train no folded copy is made, which would keep the weights from before.
    backbone.module.requires_grad_(True)
    layers = range(len(backbone.blocks))
    before = _outputs(backbone, modality, layers)
    for k in layers:
        own = [p for name, p in backbone.module.named_parameters() if backbone.blocks[k].owns(name)]
        original = [parameter.clone() for parameter in own]
        generator = torch.Generator().manual_seed(k)
        with torch.no_grad():
            for parameter in own:
                parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
            after = _outputs(backbone, modality, layers)
            for parameter, value in zip(own, original, strict=True):
                parameter.copy_(value)
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert changed == [layer >= k for layer in layers], f"block {k}: {changed}"


@FAMILIES
def test_the_forward_pass_is_differentiable(tiny, family):
    directory, _, modality = tiny(family)
    backbone = open_spec(BackboneSpec(modality, str(directory)))
    backbone.module.requires_grad_(True)
    items = [windows[0] for windows in backbone.preprocess(samples(modality)[:2], EMBEDDERS[modality][1])]
    for item in items[: None if backbone.pads else 1]:
        tokens = backbone.forward_blocks(backbone.collate([item]), [0, len(backbone.blocks) - 1])
        tokens[1].values.sum().backward()
    top = [p for n, p in backbone.module.named_parameters() if backbone.blocks[-1].owns(n)]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in top)


@FAMILIES
def test_the_fingerprint_follows_the_weights(tiny, family, tmp_path):
    directory, _, modality = tiny(family)
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    first = open_spec(BackboneSpec(modality, str(directory))).fingerprint
    assert open_spec(BackboneSpec(modality, str(copy))).fingerprint == first
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    name = sorted(state)[0]
    state[name] = state[name] + 1
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert open_spec(BackboneSpec(modality, str(copy))).fingerprint != first


@pytest.mark.parametrize("family", ["bert", "hf_vit", "wav2vec2", "timm_vit", "torchaudio_wavlm"])
def test_missing_weights_are_refused(tiny, family, tmp_path):
    """transformers would fill them with random numbers and go on."""
    import shutil

    from safetensors.torch import load_file, save_file

    from skembed.exceptions import BackboneNotFoundError

    directory, _, modality = tiny(family)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    state = load_file(copy / "model.safetensors")
    lost = sorted(name for name in state if ".1." in name)[0]
    del state[lost]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneNotFoundError, match="weights"):
        open_spec(BackboneSpec(modality, str(copy)))


@pytest.mark.parametrize("family", ["bert", "hf_vit", "wav2vec2", "timm_vit", "torchaudio_wavlm"])
def test_pickled_weights_are_refused(tiny, family, tmp_path):
    import shutil

    from skembed.exceptions import BackboneNotFoundError

    directory, _, modality = tiny(family)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BackboneNotFoundError, match=r"pytorch_model\.bin, which can run code"):
        open_spec(BackboneSpec(modality, str(copy)))


@pytest.mark.parametrize("family", ["timm_resnet", "timm_vit", "timm_swin", "hf_vit", "hf_clip", "hf_convnext"])
def test_image_size(tiny, family):
    directory, _, modality = tiny(family)
    rows = _embedder(directory, modality, image_size=128).fit_transform(samples(modality))
    assert np.isfinite(rows).all()
    assert not np.allclose(rows, _embedder(directory, modality).fit_transform(samples(modality)), atol=1e-3)
