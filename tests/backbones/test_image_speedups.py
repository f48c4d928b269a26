"""What makes images fast must not show in their embeddings, nor in the network that is fine-tuned later."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d, StdConv2d
from torch import nn

from skembed.backbones.accelerate.convolution import OneDnnConv2d, OneDnnConv2dSame, _types
from skembed.backbones.accelerate.folding import Pair, find_pairs, fold_pairs, folded
from skembed.backbones.accelerate.inference_copies import _copied
from skembed.backbones.loading.load import load
from skembed.backbones.models.image_prepare import ImagePreparation
from skembed.backbones.spec import BackboneSpec
from tests.backbones.tiny_images import ALL, noise, opened, samples

CONVOLUTIONAL = ["timm_resnet", "timm_efficientnet", "timm_mobilenet", "timm_regnet", "hf_resnet",
                 "hf_resnet_bottleneck"]  # fmt: skip
OTHERS = ["timm_convnext", "timm_vit", "timm_swin", "timm_pvt", "hf_convnextv2", "hf_vit", "hf_siglip"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Directory of a family, its normalisations far from the identity that they start as."""
    built = {}

    def get(family):
        if family not in built:
            built[family] = tmp_path_factory.mktemp(family)
            ALL[family](built[family])
            path = built[family] / "model.safetensors"
            state, generator = load_file(path), torch.Generator().manual_seed(0)
            for name, value in state.items():
                if name.endswith("running_mean"):
                    value.normal_(0, 0.5, generator=generator)
                elif name.endswith("running_var"):
                    value.uniform_(0.3, 3, generator=generator)
            save_file(state, path, metadata={"format": "pt"})
        return built[family]

    return get


def _batch(backbone, n=2):
    return backbone.collate([windows[0] for windows in backbone.preprocess(samples("image")[:n], None)])


def _run(backbone, mode=torch.inference_mode, batch=None):
    """Values of all layers and the pooled vector; in inference mode by the fast way, else by the plain one."""
    with mode():
        tokens = backbone.forward_blocks(batch or _batch(backbone), range(len(backbone.blocks)))
    values = [layer.values.clone() for layer in tokens]
    return values if tokens[-1].pooled is None else [*values, tokens[-1].pooled.clone()]


def _assert_same(found, expected, tolerance=1e-5):
    for fast, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(fast, plain, atol=tolerance * float(plain.abs().max()), rtol=0)


def _network(backbone):
    return backbone.copies.network(backbone.module)


def _norms(module):
    return [sub for sub in module.modules() if isinstance(sub, nn.BatchNorm2d)]


# -- folding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_folded_networks_have_the_same_layers(directory, family):
    backbone = opened(directory(family))
    assert len(backbone.copies.pairs) == len(_norms(backbone.module)) > 0
    _assert_same(_run(backbone), _run(backbone, torch.no_grad))
    assert _norms(_network(backbone)) == []


@pytest.mark.parametrize("family", OTHERS)
def test_networks_without_batch_norm_have_the_same_layers(directory, family):
    backbone = opened(directory(family))
    assert backbone.copies.pairs == ()
    _assert_same(_run(backbone), _run(backbone, torch.no_grad))


def test_a_network_that_may_train_runs_as_it_is(directory):
    """Copies are made once, so a network whose weights may change in place has none."""
    backbone = opened(directory("timm_resnet"))
    before = _run(backbone)
    for weight in backbone.module.parameters():
        weight.requires_grad_(True)
    with torch.no_grad():
        next(sub for sub in backbone.module.modules() if isinstance(sub, nn.Conv2d)).weight.mul_(0.5)
        _norms(backbone.module)[-1].running_mean.add_(1)
    found = _run(backbone)
    assert not torch.equal(found[-1], before[-1])
    assert all(map(torch.equal, found, _run(backbone, torch.no_grad)))


def test_a_loaded_network_cannot_be_trained_in_place(directory):
    backbone = load(BackboneSpec("image", str(directory("timm_resnet"))), torch.device("cpu"), "float32")
    (tokens,) = backbone.forward_blocks(_batch(backbone), [len(backbone.blocks) - 1])
    with pytest.raises(RuntimeError, match="does not require grad"):
        tokens.values.mean().backward()


def test_changes_before_the_first_batch_count_too(directory):
    """What was folded when the network was opened must not outlive a change, of a parameter or of a statistic."""
    for name in ("weight", "running_var"):
        backbone = opened(directory("timm_resnet"))
        with torch.no_grad():
            getattr(_norms(backbone.module)[0], name).mul_(1.5)
        _assert_same(_run(backbone), _run(backbone, torch.no_grad))


def test_a_copy_is_made_once_and_dies_with_its_network(directory):
    backbone = opened(directory("timm_resnet"))
    network = _network(backbone)
    _run(backbone)
    assert _network(backbone) is network
    trained, copies = copy.deepcopy(backbone.module), backbone.copies
    gone = weakref.ref(copies.network(trained))
    assert gone() is not network
    assert copies.network(backbone.module) is network
    del trained
    gc.collect()
    assert gone() is None


def test_all_but_the_convolutions_is_shared(directory):
    backbone = opened(directory("hf_convnextv2"))
    own = {id(p) for p in backbone.module.parameters()}
    copied = [name for name, p in _network(backbone).named_parameters() if id(p) not in own]
    kinds = {type(backbone.module.get_submodule(name.rpartition(".")[0])) for name in copied}
    assert kinds == {nn.Conv2d}


@pytest.mark.skipif(not _types(), reason="oneDNN's operations are not for this processor")
def test_the_copy_s_convolutions_are_laid_out_with_their_activations(directory):
    """And those of the network are torch's, as are those that a compiler gets."""
    backbone = opened(directory("timm_efficientnet"))
    network, copies = _network(backbone), backbone.copies
    assert copies.pairs
    for pair in copies.pairs:
        follower = backbone.module.get_submodule(pair.norm).act
        convolution = network.get_submodule(pair.convolution)
        assert isinstance(convolution, OneDnnConv2d | OneDnnConv2dSame)
        assert type(convolution.behind[0]) is type(follower)
        assert type(network.get_submodule(pair.norm)) is nn.Identity
    # Without a layout of its own, a copy may share a weight that is written to.
    few = _copied(backbone.module, copies.pairs, None, channels_last=False)
    for plain in (backbone.module, copies.in_float32(backbone.module), few):
        assert not any(isinstance(sub, OneDnnConv2d | OneDnnConv2dSame) for sub in plain.modules())


def test_half_precision_rounds_the_folded_weights_once(directory):
    """And not the normalisation first, nor its product again, as long as nobody has changed the network."""
    plain = opened(directory("timm_resnet"))
    pair = plain.copies.pairs[3]
    expected = folded(*(plain.module.get_submodule(name) for name in pair))[0].to(torch.bfloat16)
    backbone = opened(directory("timm_resnet"))
    backbone.module.to(torch.bfloat16)
    assert torch.equal(_network(backbone).get_submodule(pair.convolution).weight, expected)
    changed = opened(directory("timm_resnet"))
    changed.module.to(torch.bfloat16)
    with torch.no_grad():
        changed.module.get_submodule(pair.norm).weight.mul_(2)
    twice = _network(changed).get_submodule(pair.convolution).weight
    torch.testing.assert_close(twice, 2 * expected, rtol=0.02, atol=1e-3)
    assert not torch.equal(twice, expected)


# -- what fine-tuning gets --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["timm_efficientnet", "hf_resnet", "timm_convnext"])
def test_training_is_what_it_was_without_inference(directory, family):
    gradients = []
    for infers in (False, True):
        backbone = opened(directory(family))
        if infers:
            state = {name: value.clone() for name, value in backbone.module.state_dict().items()}
            _run(backbone)
            now = backbone.module.state_dict()
            assert list(now) == list(state)
            assert all(torch.equal(now[name], value) for name, value in state.items())
        module = copy.deepcopy(backbone.module).requires_grad_(True).train()
        tuned = dataclasses.replace(backbone, module=module)
        torch.manual_seed(0)
        tokens = tuned.forward_blocks(_batch(tuned, 4), [len(tuned.blocks) - 1])[0]
        tokens.values.square().mean().backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    without, after = gradients
    assert len(without) > len(list(_norms(module)))
    assert without.keys() == after.keys()
    assert all(torch.equal(without[name], after[name]) for name in without)


def test_embedding_in_the_middle_of_training(directory):
    """A step, an evaluation, a step: each evaluation sees the network as it is, and its own backbone is untouched."""
    backbone = opened(directory("timm_resnet"))
    first = _run(backbone)
    module = copy.deepcopy(backbone.module).requires_grad_(True)
    tuned = dataclasses.replace(backbone, module=module)
    optimiser, last = torch.optim.SGD(module.parameters(), lr=1e-3), first
    for _ in range(2):
        module.train()
        optimiser.zero_grad()
        tuned.forward_blocks(_batch(tuned, 4), [len(tuned.blocks) - 1])[0].values.mean().backward()
        optimiser.step()
        module.eval()
        now = _run(tuned)
        _assert_same(now, _run(tuned, torch.no_grad))
        assert not torch.equal(now[-1], last[-1])
        last = now
    assert all(map(torch.equal, _run(backbone), first))


def test_training_mode_is_obeyed_in_inference_mode(directory):
    backbone = opened(directory("timm_resnet"))
    backbone.module.train()
    assert _network(backbone) is backbone.module
    backbone.module.eval()
    _norms(backbone.module)[2].train()
    assert _network(backbone) is backbone.module


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
def test_backbones_can_be_copied_after_use(directory, duplicate):
    backbone = opened(directory("timm_resnet"))
    expected = _run(backbone)
    _assert_same(_run(duplicate(backbone)), expected)
    other = duplicate(backbone)
    with torch.no_grad():
        _norms(other.module)[0].weight.zero_()
    assert not torch.equal(_run(other)[-1], expected[-1])
    assert all(map(torch.equal, _run(backbone), expected))


# -- what may not be folded -------------------------------------------------------------------------------


class _Net(nn.Module):
    """One convolution and one normalisation, joined by `how`."""

    def __init__(self, how, convolution=None, norm=None):
        super().__init__()
        self.convolution = convolution or nn.Conv2d(3, 3, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(3)
        self.how = how
        self.eval()

    def forward(self, x):
        return self.how(self, x)


PIXELS = torch.zeros(1, 3, 8, 8)


def _found(net, run=lambda net, x: [net(x)]):
    return find_pairs(net, run, PIXELS)


def test_pairs_are_found():
    assert _found(_Net(lambda net, x: net.norm(net.convolution(x)))) == (Pair("convolution", "norm"),)
    assert _found(_Net(lambda net, x: net.norm(net.convolution(x)).relu_() + x))
    assert _found(_Net(lambda net, x: net.norm(net.convolution(x)), norm=BatchNormAct2d(3)))


@pytest.mark.parametrize(
    "how",
    [
        lambda net, x: net.norm(y := net.convolution(x)) + y,
        lambda net, x: net.norm(net.convolution(x).relu_()),
        lambda net, x: net.norm(net.convolution(x) + 1),
        lambda net, x: net.norm(net.convolution(x)) + net.convolution(x + 1),
        lambda net, x: net.norm(net.convolution(x)) + net.norm(x),
        lambda net, x: net.norm(x),
        lambda net, x: net.convolution(net.norm(x)),
    ],
)
def test_what_somebody_else_reads_is_no_pair(how):
    assert _found(_Net(how)) == ()


def test_what_is_read_as_a_layer_is_no_pair():
    """A block may end between a convolution and its normalisation."""
    net = _Net(lambda net, x: net.norm(net.convolution(x)))

    def run(net, x):
        between = net.convolution(x)
        return [between, net.norm(between)]

    assert _found(net) == (Pair("convolution", "norm"),)
    assert _found(net, run) == ()


def test_other_convolutions_and_norms_are_no_pair():
    def how(net, x):
        return net.norm(net.convolution(x))

    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    assert _found(_Net(how, convolution=StdConv2d(3, 3, 3, padding=1))) == ()
    assert _found(_Net(how, convolution=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))) == ()
    assert _found(_Net(how, norm=Doubled(3))) == ()
    assert _found(_Net(how, norm=nn.BatchNorm2d(3, track_running_stats=False))) == ()
    training = _Net(how)
    training.norm.train()
    assert _found(training) == ()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), BatchNormAct2d(4, eps=0.1)])
def test_a_folded_pair_computes_the_same(bias, norm):
    net = nn.Sequential(nn.Conv2d(6, 4, 3, groups=2, bias=bias), copy.deepcopy(norm)).eval()
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.2, 2)
        for parameter in net[1].parameters():
            parameter.normal_()
        expected = net(x)
        fold_pairs(net, [Pair("0", "1")], [folded(net[0], net[1])])
        torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)
    assert not _norms(net)


def test_a_network_that_misses_its_norms_is_left_whole(directory, monkeypatch):
    """By an error, or by another result without one."""
    from timm.models.resnet import BasicBlock, Bottleneck

    expected = _run(opened(directory("timm_resnet")), torch.no_grad)
    original = timm.create_model

    def asks(self, _args):
        assert self.bn1.weight is not None

    def minds(self, _args, output):
        return output if isinstance(self.bn1, nn.BatchNorm2d) else output + 1

    for register in (
        lambda sub: sub.register_forward_pre_hook(asks),
        lambda sub: sub.register_forward_hook(minds),
    ):

        def build(*args, register=register, **kwargs):
            module = original(*args, **kwargs)
            for sub in module.modules():
                if isinstance(sub, (BasicBlock, Bottleneck)):
                    register(sub)
            return module

        with monkeypatch.context() as patch:
            patch.setattr(timm, "create_model", build)
            backbone = opened(directory("timm_resnet"))
        assert backbone.copies.pairs == ()
        _assert_same(_run(backbone), expected)


# -- preparation and batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["timm_resnet", "timm_vit"])
def test_batches_are_timm_s_transform(directory, family):
    backbone = opened(directory(family))
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=backbone.module.pretrained_cfg)
    )
    items = [windows[0] for windows in backbone.preprocess(noise(), None)]
    assert {item.data["pixels"].dtype for item in items} == {np.dtype(np.uint8)}
    pixels = backbone.collate(items)["pixels"]
    expected = torch.stack([transform(image) for image in noise()])
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)
    layout = torch.channels_last if family == "timm_resnet" else torch.contiguous_format
    assert pixels.is_contiguous(memory_format=layout)
    alone = torch.cat([backbone.collate([item])["pixels"] for item in items])
    assert torch.equal(alone, pixels)


@pytest.mark.parametrize(
    ("family", "float32", "half"), [("timm_resnet", 4, 8), ("timm_convnext", 4, 8), ("timm_vit", 8, 8)]
)
def test_batches_are_as_large_as_the_network_likes(directory, family, float32, half):
    backbone = opened(directory(family))
    assert backbone.batch_limit == float32
    backbone.module.to(torch.bfloat16)
    assert backbone.batch_limit == half


def test_the_least_size():
    def cover(height, width):
        return ImagePreparation((height, width), (8, 8), fit="cover").least_size

    assert ImagePreparation(256, (224, 224)).least_size == (743, 743)
    assert cover(100, 200) == (580, 290)
    assert ImagePreparation(None, (8, 8)).least_size is None
