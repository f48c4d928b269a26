"""What is particular to image networks: hidden states, blocks, sizes, checkpoints as the hub has them."""

from __future__ import annotations

import functools
import json
import shutil

import numpy as np
import pytest
import timm
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from skembed.backbones.blocks import with_buffers
from skembed.exceptions import BackboneNotFoundError
from tests.backbones import tiny_images
from tests.backbones.tiny_images import ALL, MORE, SIZES, VISION, noise, opened, pixels, run, samples

#: Libraries are compared in float32: what "auto" is depends on the machine.
embed = functools.partial(tiny_images.embed, precision="float32")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Directory and plain loop of a family, built once."""
    built = {}

    def get(family):
        if family not in built:
            directory = tmp_path_factory.mktemp(family)
            built[family] = (directory, ALL[family](directory))
        return built[family]

    return get


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of a family's directory, to be spoilt."""

    def get(family):
        return shutil.copytree(tiny(family)[0], tmp_path / family)

    return get


def _rewrite(path, **changes):
    """Change keys of a JSON file; None removes them."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


# -- networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MORE)
def test_more_families_equal_a_plain_loop(tiny, family):
    directory, plain = tiny(family)
    images = samples("image")
    rows, expected = embed(directory, images), np.stack([plain(image) for image in images])
    np.testing.assert_allclose(rows, expected, atol=1e-5 * max(1, np.abs(expected).max()))
    assert opened(directory).width == rows.shape[1]


def _hidden_states(backbone, batch):
    """Outputs of all layers but the last as the library reports them, and its own last one."""
    module = backbone.module
    if hasattr(backbone, "forward_options"):
        output = module(batch, output_hidden_states=True)
        states = list(output.hidden_states)
        # Hierarchical nets report the last stage and its normalised output as two; plain ones the stem first.
        return [*states[: len(backbone.blocks) - 1], output.last_hidden_state]
    top, states = module.forward_intermediates(batch, norm=False)
    return [*states[: len(backbone.blocks) - 2], top]


def _flat(state):
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state


LIBRARY_STATES = ["timm_convnext", "timm_vit", "timm_dinov2", "timm_clip", "timm_siglip", "hf_resnet", "hf_convnext",
                  "hf_convnextv2", "hf_vit", "hf_deit", "hf_dinov2", "hf_dinov2_registers", "hf_clip",
                  "hf_siglip", "hf_swin"]  # fmt: skip


@pytest.mark.parametrize("family", LIBRARY_STATES)
def test_layers_are_the_library_s_own_hidden_states(tiny, family):
    backbone = opened(tiny(family)[0])
    images = samples("image")[:2]
    found = run(backbone, images, range(len(backbone.blocks)))
    with torch.no_grad():
        expected = _hidden_states(backbone, pixels(backbone, images))
    layers = range(len(found)) if hasattr(backbone, "forward_options") else range(1, len(found))
    for layer, theirs in zip(layers, expected, strict=True):
        values = found[layer].values
        theirs = _flat(theirs)
        if theirs.shape[1] < values.shape[1]:  # forward_intermediates drops the prefix tokens
            values = values[:, found[layer].n_prefix :]
        torch.testing.assert_close(values, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ALL)
def test_masks_and_prefixes(tiny, family):
    backbone = opened(tiny(family)[0])
    *below, last = tokens = run(backbone, samples("image")[:2], range(len(backbone.blocks)))
    for layer in tokens:
        assert layer.mask.shape == layer.values.shape[:2]
        assert layer.mask.dtype == torch.bool
        assert layer.mask.all()
        sides = (layer.values.shape[1] - layer.n_prefix) ** 0.5
        assert sides == int(sides), "positions without the prefix are a square"
    assert all(layer.pooled is None for layer in below)
    assert (last.pooled is not None) == (backbone.default_pooling == "pooled")
    n_prefix = {"timm_vit": 1, "timm_dinov2": 5, "timm_dinov2_plain": 1, "timm_clip": 1, "timm_cait": 1, "hf_vit": 1,
                "hf_vit_classifier": 1, "hf_deit": 2, "hf_dinov2": 1, "hf_dinov2_registers": 3, "hf_clip": 1,
                "hf_clip_tower": 1}.get(family, 0)  # fmt: skip
    assert last.n_prefix == n_prefix
    assert backbone.class_token == (n_prefix > 0)


def test_a_class_token_that_enters_late_is_no_prefix_before(tiny):
    first, *_, last = run(opened(tiny("timm_cait")[0]), samples("image")[:1], range(3))
    assert (first.n_prefix, first.values.shape[1]) == (0, 16)
    assert (last.n_prefix, last.values.shape[1]) == (1, 17)


def test_maps_of_either_order_come_with_channels_last(tiny):
    widths = {family: [tokens.values.shape[1:] for tokens in run(opened(tiny(family)[0]), noise()[:1], range(5))]
              for family in ("timm_pvt", "timm_swin")}  # fmt: skip
    assert widths["timm_pvt"] == [(256, 8), (256, 8), (64, 16), (16, 24), (4, 32)]
    assert widths["timm_swin"] == [(256, 8), (256, 8), (64, 16), (16, 32), (4, 64)]


@pytest.mark.parametrize(("family", "shape"), [("timm_twins", (4, 32)), ("timm_pit", (1, 256))])
def test_networks_of_unknown_depth_are_one_block(tiny, family, shape):
    backbone = opened(tiny(family)[0])
    assert [block.name for block in backbone.blocks] == ["network"]
    (tokens,) = run(backbone, noise()[:1], [0])
    assert tokens.values.shape[1:] == shape


@pytest.mark.parametrize("family", ALL)
def test_buffers_belong_to_the_block_of_their_module(tiny, family):
    """A frozen batch normalisation must keep its running statistics too."""
    backbone = opened(tiny(family)[0])
    owners = {name: [i for i, block in enumerate(backbone.blocks) if block.owns(name)]
              for name, _ in (*backbone.module.named_parameters(), *backbone.module.named_buffers())}  # fmt: skip
    assert all(len(own) == 1 for own in owners.values())
    for name, own in owners.items():
        if name.endswith("running_mean"):
            assert own == owners[name.replace("running_mean", "weight")]


def test_buffers_of_modules_without_parameters_go_to_the_first_block():
    from skembed.backbones.base import Block

    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.BatchNorm1d(2), "c": torch.nn.Module()})
    module["c"].register_buffer("angles", torch.zeros(2))
    blocks = with_buffers(module, [Block("stem", ("a.weight", "a.bias")), Block("b", ("b.weight", "b.bias"))])
    assert blocks == (Block("stem", ("a", "c.angles")), Block("b", ("b",)))


ONE_BY_ONE = ["timm_resnet", "timm_efficientnet", "timm_convnext", "timm_vit", "timm_dinov2", "timm_swin", "timm_clip",
              "timm_siglip", "timm_mobilenet", "hf_resnet", "hf_convnext", "hf_dinov2_registers",
              "hf_swin", "hf_clip", "hf_siglip"]  # fmt: skip


@pytest.mark.parametrize("family", ONE_BY_ONE)
def test_parameters_outside_the_layers_first_show_in_the_layer_of_their_block(tiny, family):
    """One at a time: a final norm counted to the stem would pass where whole blocks are disturbed."""
    backbone = opened(tiny(family)[0])
    names = backbone.layer_names
    image, layers = samples("image")[:1], range(len(backbone.blocks))

    def outputs():
        tokens = run(backbone, image, layers)
        return [tuple(t.clone() for t in (layer.values, layer.pooled) if t is not None) for layer in tokens]

    before, seen, generator = outputs(), 0, torch.Generator().manual_seed(0)
    for name, parameter in backbone.module.named_parameters():
        if any(name.startswith(f"{layer}.") for layer in names):
            continue
        if name.endswith("mask_token"):  # of pre-training only
            continue
        own = [block.owns(name) for block in backbone.blocks].index(True)
        saved = parameter.clone()
        parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
        after = outputs()
        parameter.copy_(saved)
        same = [all(map(torch.equal, a, b)) for a, b in zip(before, after, strict=True)]
        if all(same) and name.endswith((".bias", "k_bias")):  # a softmax cancels a bias of keys
            continue
        assert same.index(False) == own, name
        seen += 1
    assert seen > 0


# -- sizes ------------------------------------------------------------------------------------------------


def test_timm_s_own_network_of_another_size(tiny):
    directory, _ = tiny("timm_vit")
    config = json.loads((directory / "config.json").read_text())
    source = {**config["pretrained_cfg"], "file": str(directory / "model.safetensors")}
    module = timm.create_model("test_vit", pretrained=True, pretrained_cfg=source, img_size=96, num_classes=0).eval()
    data = timm.data.resolve_data_config({"img_size": 96}, pretrained_cfg=source)
    transform = timm.data.create_transform(**data)
    with torch.no_grad():
        expected = module(torch.stack([transform(image) for image in samples("image")])).numpy()
    np.testing.assert_allclose(embed(directory, samples("image"), image_size=96), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["hf_vit", "hf_clip", "hf_siglip", "hf_deit"])
def test_positions_are_interpolated_where_the_image_size_differs(copied, family):
    """By the option, and where the preparation on the hub is larger than the network was trained on."""
    directory = copied(family)
    rows = embed(directory, samples("image"), image_size=48)
    backbone = opened(directory, image_size=48)
    assert pixels(backbone, samples("image")).shape[2:] == (48, 48)
    with torch.no_grad():
        output = backbone.module(pixels(backbone, samples("image")), interpolate_pos_encoding=True)
    pooled = output.pooler_output if backbone.default_pooling == "pooled" else output.last_hidden_state[:, 0]
    np.testing.assert_allclose(rows, pooled.numpy(), atol=1e-5)
    square = {"height": 48, "width": 48}
    _rewrite(directory / "preprocessor_config.json", size=square, do_center_crop=False, crop_size=square)
    assert pixels(opened(directory), noise()).shape[2:] == (48, 48)
    assert np.isfinite(embed(directory, samples("image"))).all()


@pytest.mark.parametrize(
    ("family", "size", "match"),
    [
        ("timm_vit", 8, "at image_size=8: "),
        ("timm_vit", 100, "does not turn an image of 100 x 100 pixels.*a multiple of its patches"),
        ("hf_vit", 4, "cannot read images of 4 x 4 pixels.*such as 32"),
        ("hf_swin", 30, "cannot read images of 30 x 30 pixels.*such as 64"),
    ],
)
def test_sizes_that_a_network_cannot_read_are_refused_before_the_first_image(tiny, family, size, match):
    with pytest.raises(BackboneNotFoundError, match=match):
        opened(tiny(family)[0], image_size=size)


# -- checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["timm_resnet", "hf_resnet"])
def test_weights_in_half_precision_are_read_in_float32(tiny, copied, family):
    directory = copied(family)
    state = load_file(directory / "model.safetensors")
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})
    module = opened(directory).module
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert not module.training
    assert not any(value.requires_grad for value in module.parameters())
    np.testing.assert_allclose(embed(directory, noise()), embed(tiny(family)[0], noise()), atol=0.05)


def test_timm_reads_what_lies_here_and_nothing_else(tiny, copied):
    """Where the configuration says that the weights came from is not asked again: tests have no network."""
    directory = copied("timm_resnet")
    config = json.loads((directory / "config.json").read_text())
    elsewhere = {"source": "hf-hub", "hf_hub_id": "timm/other", "url": "https://example.org/w.pth", "custom_load": True}
    _rewrite(directory / "config.json", pretrained_cfg={**config["pretrained_cfg"], **elsewhere, "of_the_future": 1})
    np.testing.assert_array_equal(embed(directory, noise()), embed(tiny("timm_resnet")[0], noise()))


def test_timm_s_older_flat_configuration(tiny, copied):
    directory = copied("timm_efficientnet")
    config = json.loads((directory / "config.json").read_text())
    flat = {"architecture": config["architecture"], **config["pretrained_cfg"]}
    (directory / "config.json").write_text(json.dumps(flat))
    np.testing.assert_array_equal(embed(directory, noise()), embed(tiny("timm_efficientnet")[0], noise()))


def test_timm_s_size_of_a_rebuilt_network(copied):
    """model_args of a network of fixed size say more than the input_size that it was first trained on."""
    directory = copied("timm_vit")
    config = json.loads((directory / "config.json").read_text())
    old = {**config["pretrained_cfg"], "input_size": [3, 160, 160], "fixed_input_size": True}
    _rewrite(directory / "config.json", pretrained_cfg=old)
    assert pixels(opened(directory), noise()).shape[2:] == (64, 64)


def _spoil_architecture(directory):
    _rewrite(directory / "config.json", architecture="resnet_of_the_future")


def _spoil_weights_of_another(directory):
    _rewrite(directory / "config.json", architecture="test_convnext")


def _spoil_file(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _spoil_name(directory):
    (directory / "model.safetensors").rename(directory / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_spoil_architecture, "'resnet_of_the_future', which timm"),
        (_spoil_weights_of_another, "not those of timm's test_convnext"),
        (_spoil_file, r"model\.safetensors is not a complete safetensors file"),
        (_spoil_name, r"has no model\.safetensors"),
    ],
)
def test_timm_directories_that_cannot_be_read(copied, spoil, match):
    directory = copied("timm_resnet")
    spoil(directory)
    with pytest.raises(BackboneNotFoundError, match=match):
        opened(directory)


def test_transformers_directories_that_cannot_be_read(copied, tmp_path):
    directory = copied("hf_clip")
    _rewrite(directory / "preprocessor_config.json", image_processor_type="LlavaNextImageProcessor")
    with pytest.raises(BackboneNotFoundError, match=r"LlavaNext.*not supported.*CLIPImageProcessor"):
        opened(directory)
    (directory / "preprocessor_config.json").unlink()
    with pytest.raises(BackboneNotFoundError, match=r"no preprocessor_config\.json"):
        opened(directory)
    tf.BertModel(tf.BertConfig(vocab_size=20, **SIZES)).save_pretrained(tmp_path / "bert")
    with pytest.raises(BackboneNotFoundError, match=r"is a text backbone, and ImageEmbedder .*Use TextEmbedder"):
        opened(tmp_path / "bert")
    tf.LevitConfig().save_pretrained(tmp_path / "levit")
    with pytest.raises(BackboneNotFoundError, match=r"'levit'; supported are .*clip.*and timm"):
        opened(tmp_path / "levit")


def test_a_processor_configuration_beside_others(tiny, copied):
    """processor_config.json, where a processor of images and texts was saved."""
    directory = copied("hf_clip")
    config = json.loads((directory / "preprocessor_config.json").read_text())
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    np.testing.assert_array_equal(embed(directory, noise()), embed(tiny("hf_clip")[0], noise()))


def test_a_text_tower_alone_has_no_images_to_read(tmp_path, copied):
    """Only the vision part of a full CLIP is used, and all of it must be there."""
    directory = copied("hf_clip")
    state = load_file(directory / "model.safetensors")
    texts = {name: value for name, value in state.items() if not name.startswith("vision_model")}
    save_file(texts, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneNotFoundError, match="would be random"):
        opened(directory)
    vision = {name: value for name, value in state.items() if name.startswith("vision_model")}
    save_file(vision, directory / "model.safetensors", metadata={"format": "pt"})
    assert embed(directory, noise()).shape == (6, VISION["hidden_size"])
