"""Mixup and cutmix: targets move with what they stand for, and nothing that is given is written to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skembed.augment import cutmix, mixup

RNG = np.random.default_rng
N = 6


def _batch(height=16, width=24):
    """Image i is i everywhere, and its target is one-hot at i: targets can be read off the pixels."""
    images = torch.arange(N, dtype=torch.float32)[:, None, None, None].expand(N, 3, height, width).clone()
    return images, torch.eye(N)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_targets_are_of_what_is_in_the_image(mix):
    images, targets = _batch()
    shares = []
    for seed in range(100):
        mixed, soft = mix(images, targets, RNG(seed), 1.0)
        assert (mixed.shape, mixed.dtype) == (images.shape, images.dtype)
        assert torch.allclose(soft.sum(dim=1), torch.ones(N), atol=1e-6)
        assert (soft >= 0).all()
        # The mean pixel is the mean of the images' numbers, weighted as the targets are.
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), soft @ torch.arange(N, dtype=torch.float32), atol=1e-4)
        moved = soft.diagonal() < 1 - 1e-6
        shares += soft.diagonal()[moved][:1].tolist()
    # Of cutmix's boxes, 0.32 of the image lies inside on average, where 0.5 was drawn.
    assert np.mean(shares) == pytest.approx(0.5 if mix is mixup else 0.68, abs=0.07)
    assert min(shares) < 0.25
    assert max(shares) > 0.9


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_numbers_of_a_regression_are_mixed_too(mix):
    images, _ = _batch()
    numbers = torch.arange(N, dtype=torch.float32)
    mixed, targets = mix(images, numbers, RNG(0), 1.0)
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets, atol=1e-4)
    assert not torch.equal(targets, numbers)


def test_cutmix_pastes_one_rectangle_at_one_place_for_all():
    images, targets = _batch()
    clipped = 0
    for seed in range(60):
        mixed, soft = cutmix(images, targets, RNG(seed), 1.0)
        pasted = (mixed != images).any(dim=1)
        boxes = [one for one in pasted if one.any()]
        for box in boxes:
            rows, columns = torch.where(box.any(dim=1))[0], torch.where(box.any(dim=0))[0]
            assert box.sum() == len(rows) * len(columns) == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
            assert torch.equal(box, boxes[0])
            clipped += bool(rows[0] == 0 or columns[0] == 0)
            assert float(soft.min(dim=1).values.min()) >= 0
        if boxes:
            area = boxes[0].float().mean()
            changed = soft.diagonal() < 1
            assert torch.allclose(soft.diagonal()[changed], 1 - area, atol=1e-6)
        # Each pixel is one of the two images' and no blend.
        assert set(mixed.unique().tolist()) <= set(range(N))
    assert clipped


def test_mixup_mixes_features_of_any_shape_as_its_formula_says():
    features, targets = torch.randn(N, 5, generator=torch.Generator().manual_seed(0)), torch.eye(N)
    rng = RNG(3)
    share, other = rng.beta(0.4, 0.4), rng.permutation(N)
    mixed, soft = mixup(features, targets, RNG(3), 0.4)
    assert torch.allclose(mixed, share * features + (1 - share) * features[other])
    assert torch.allclose(soft, share * targets + (1 - share) * targets[other])


def test_the_share_follows_alpha():
    """Small: one of the two nearly alone. Large: half and half."""

    def shares(alpha):
        found = []
        for seed in range(200):
            soft = mixup(torch.zeros(2, 1), torch.eye(2), RNG(seed), alpha)[1]
            found.append(float(soft.max(dim=1).values[0]))
        return np.mean(found)

    assert shares(0.05) > 0.95
    assert shares(100) == pytest.approx(0.75, abs=0.06)  # half of all pairs of two are with oneself: 1, else 0.5


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_seeded_without_side_effects_on_states_or_inputs(mix):
    images, targets = _batch()
    before, state = (images.clone(), targets.clone()), torch.get_rng_state()
    first, again, other = (mix(images, targets, RNG(seed), 1.0) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_alpha_of_zero_or_a_batch_of_one_changes_nothing(mix):
    images, targets = _batch()
    assert all(map(torch.equal, mix(images, targets, RNG(0), 0), (images, targets)))
    one = mix(images[3:4], targets[3:4], RNG(0), 1.0)
    assert torch.allclose(one[0], images[3:4])
    assert torch.allclose(one[1], targets[3:4])


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_types_layouts_and_gradients_stay(mix):
    images, targets = _batch()
    half = mix(images.bfloat16(), targets, RNG(0), 1.0)
    assert (half[0].dtype, half[1].dtype) == (torch.bfloat16, torch.float32)
    last = mix(images.to(memory_format=torch.channels_last), targets, RNG(0), 1.0)[0]
    assert last.is_contiguous(memory_format=torch.channels_last)
    leaf = images.clone().requires_grad_(True)
    mix(leaf, targets, RNG(0), 1.0)[0].sum().backward()
    assert leaf.grad.sum() == pytest.approx(images.numel(), rel=1e-5)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_what_cannot_be_mixed_gets_a_clear_word(mix):
    images, targets = _batch()
    name = mix.__name__
    for alpha in (-1, float("nan"), float("inf"), "often"):
        with pytest.raises(ValueError, match=f"{name}: alpha={alpha!r} is out of range"):
            mix(images, targets, RNG(0), alpha)
    with pytest.raises(ValueError, match=f"{name}: targets are torch.int64. Use soft targets.*one_hot"):
        mix(images, torch.arange(N), RNG(0))
    with pytest.raises(ValueError, match=f"{name}: inputs are torch.uint8"):
        mix(images.byte(), targets, RNG(0))
    with pytest.raises(ValueError, match=f"{name}: 6 inputs and 5 targets"):
        mix(images, targets[:5], RNG(0))


def test_cutmix_is_for_images():
    with pytest.raises(ValueError, match=r"cutmix: inputs of shape \(6, 4\) are not images.*mixup"):
        cutmix(torch.zeros(6, 4), torch.eye(6), RNG(0))
