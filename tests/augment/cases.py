"""What the tests of augmentation share: samples, and every operation set so that it surely changes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from skembed.augment import OPERATIONS, Augmentation, Operation, resolve_augmentation, sample_rng
from skembed.backbones.base import Item

RATE = 16_000
TEXT = "The quick brown fox, as we know, jumps over a lazy dog near the old river every single morning"
SYNONYMS = {"quick": ["fast", "swift"], "river": ["stream", "brook"], "dog": ["hound"], "old": {"aged", "ancient"}}

#: Parameters with which nothing is left to a probability.
SURE: dict[str, dict[str, Any]] = {
    "flip": {"horizontal": 1.0},
    "color_jitter": {"probability": 1.0},
    "random_erasing": {"probability": 1.0},
    "rand_augment": {"n_operations": 4},
    "word_dropout": {"rate": 0.4},
    "word_swap": {"rate": 0.9},
    "synonym_replacement": {"rate": 1.0, "synonyms": SYNONYMS},
    "token_masking": {"rate": 0.4},
    "token_dropout": {"rate": 0.4},
    "speed_perturbation": {"factors": (0.8, 0.9, 1.1, 1.2)},
    "noise": {"probability": 1.0},
    "spec_augment": {"time_share": 0.3, "frequency_share": 0.3},
}


def sure(name: str, **parameters: Any) -> Operation:
    """The operation, with those parameters."""
    return OPERATIONS[name](**{**SURE.get(name, {}), **parameters})


def photograph(width: int = 48, height: int = 32) -> Image.Image:
    """Colours that differ everywhere, so that any move shows."""
    ramp = np.linspace(0, 255, width * height).reshape(height, width)
    noise = np.random.default_rng(0).integers(0, 256, size=(height, width))
    return Image.fromarray(np.stack([ramp, ramp[::-1], noise], axis=-1).astype(np.uint8))


def recording(seconds: float = 0.5, hertz: float = 440) -> np.ndarray:
    """A tone at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def token_item(n_tokens: int = 30) -> Item:
    """[CLS] 10 11 12 ... [SEP] of `token_backbone`."""
    ids = np.array([2, *range(10, 10 + n_tokens), 3])
    return Item({"ids": ids}, length=len(ids))


def mel_item(n_real: int = 20, n_frames: int = 60, n_mels: int = 80) -> Item:
    """A spectrogram as Whisper's front end makes it: positions of two frames, and silence behind them."""
    mel = np.random.default_rng(0).normal(size=(n_mels, n_frames)).astype(np.float32)
    mel[:, 2 * n_real :] = -1
    return Item({"mel": mel, "attended": n_frames // 2}, length=n_real)


def token_backbone(**tokens: int | None) -> Any:
    """What the operations look at of a backbone with BERT's special tokens."""
    ids = {"mask": 4, "unk": 1, "bos": None, "eos": None, "pad": 0, "cls": 2, "sep": 3, **tokens}
    tokenizer = SimpleNamespace(**{f"{name}_token_id": token for name, token in ids.items()})
    tokenizer.all_special_ids = [token for token in ids.values() if token is not None]
    table = SimpleNamespace(num_embeddings=100)
    return SimpleNamespace(
        spec=SimpleNamespace(name="tiny"),
        module=SimpleNamespace(get_input_embeddings=lambda: table),
        tokenizer=tokenizer,
        prefix=[2],
        suffix=[3],
        sampling_rate=RATE,
    )


def changed(augment: Any, modality: str, seed: int) -> Any:
    """The modality's sample and its item, after an augmentation, as comparable values."""
    augmentation = augment if isinstance(augment, Augmentation) else resolve_augmentation(augment, modality)
    assert augmentation is not None
    rng = np.random.default_rng(seed)
    value = {"image": photograph, "text": lambda: TEXT, "audio": recording}[modality]()
    value = augmentation.on_sample(value, rng, sampling_rate=RATE)
    seen: list[Any] = [value] if isinstance(value, str) else [np.asarray(value).tolist()]
    if modality != "image":
        item = augmentation.on_item(token_item() if modality == "text" else mel_item(), rng, token_backbone())
        seen.append(item.data["ids" if modality == "text" else "mel"].tolist())
    return seen


def view(task: tuple[str, str, int]) -> Any:
    """Modality, preset and index of a sample, as a worker gets them, to the changed sample."""
    modality, strength, index = task
    seed = int(sample_rng(0, epoch=3, index=index).integers(2**32))
    return changed(strength, modality, seed)
