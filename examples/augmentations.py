"""What each augmentation does: pictures for images, mixed images and recordings, a listing for texts.

    python examples/augmentations.py [DIRECTORY]

Runs offline, on two photographs that come with scikit-learn and a recording that is made here, and writes
augmentations_images.png, augmentations_mixed.png and augmentations_audio.png. Needs
``pip install -e ".[bundled,plot]"``.
"""

from __future__ import annotations

import argparse
import textwrap
from itertools import count
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from own_data import clear_errors
from PIL import Image
from sklearn.datasets import load_sample_image

from skembed.augment import PRESETS, cutmix, mixup, resolve_augmentation, sample_rng
from skembed.backbones.base import AudioOptions, TextOptions
from skembed.backbones.loading.load import load
from skembed.backbones.loading.registry import resolve

DRAWS = 5
RATE = 16_000

IMAGES = [
    "random_resized_crop",
    "flip",
    ("color_jitter", {"probability": 1.0}),
    "rotation",
    ("random_erasing", {"probability": 1.0}),
    "rand_augment",
    "light",
    "standard",
    "strong",
]
#: Ways to mix two images of a batch, with their alpha.
MIXTURES = [(mixup, 0.2), (mixup, 1.0), (cutmix, 1.0)]
#: With what is drawn of each: the waveform, or the spectrogram that the backbone makes of it.
RECORDINGS = [
    ("gain", "waveform"),
    (("time_shift", {"seconds": 0.3}), "waveform"),
    (("noise", {"snr": (5, 10), "probability": 1.0}), "waveform"),
    (("noise", {"snr": (5, 10), "kind": "pink", "probability": 1.0}), "spectrogram"),
    (("speed_perturbation", {"factors": (0.8, 0.9, 1.1, 1.2)}), "spectrogram"),
    ("spec_augment", "spectrogram"),
    ("light", "waveform"),
    ("standard", "spectrogram"),
    ("strong", "spectrogram"),
]
SYNONYMS = {"parcel": ["package", "shipment"], "arrived": ["come"], "overdue": ["late"], "invoice": ["bill"]}
TEXTS = [
    ("word_dropout", {"rate": 0.25}),
    ("word_swap", {"rate": 0.25}),
    ("synonym_replacement", {"synonyms": SYNONYMS, "rate": 0.8}),
    ("token_masking", {"rate": 0.25}),
    ("token_dropout", {"rate": 0.25}),
    "light",
    "standard",
    "strong",
]
TEXT = "Your parcel has not arrived, and the invoice for it is overdue since Monday."


def label(augment, modality: str, width: int = 40) -> str:
    """The operations, one a line, below the preset's name where it is one."""
    lines = [operation.describe() for operation in resolve_augmentation(augment, modality).operations]
    wrapped = [textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False) for line in lines]
    return "\n".join(
        [repr(augment), *wrapped] if isinstance(augment, str) and augment in PRESETS[modality] else wrapped
    )


def grid(labels: list[str], height: float):
    """Rows of axes without ticks: the label at their left, the original in the first column."""
    columns = 1 + DRAWS
    figure, axes = plt.subplots(
        len(labels), columns, figsize=(3.3 + 2.1 * columns, height * len(labels)), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for text, ax in zip(labels, axes[:, 0], strict=True):
        ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9, family="monospace")
    for column, ax in enumerate(axes[0]):
        ax.set_title("original" if column == 0 else f"draw {column}", fontsize=11)
    return figure, axes


def draw_images(path: Path) -> None:
    """Rows are operations and presets; each image is shown at the size that comes out."""
    image = Image.fromarray(load_sample_image("china.jpg")).resize((240, 160))
    figure, axes = grid([label(augment, "image") for augment in IMAGES], height=1.5)
    for augment, line in zip(IMAGES, axes, strict=True):
        augmentation = resolve_augmentation(augment, "image")
        line[0].imshow(image)
        for draw, ax in enumerate(line[1:], start=1):
            ax.imshow(augmentation.on_sample(image, sample_rng(0, epoch=draw, index=0)))
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_mixed(path: Path) -> None:
    """Rows are ways to mix; above each image is its target, which moves with what is in it."""
    names = ("china", "flower")
    photographs = [Image.fromarray(load_sample_image(f"{name}.jpg")).resize((240, 160)) for name in names]
    pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in photographs])
    figure, axes = grid([f"{mix.__name__}\nalpha={alpha}" for mix, alpha in MIXTURES], height=1.7)
    for (mix, alpha), line in zip(MIXTURES, axes, strict=True):
        line[0].imshow(photographs[0])
        line[0].set_title(f"{names[0]} 1.00", fontsize=9)
        draws = (mix(pixels, torch.eye(2), sample_rng(0, epoch, index=0), alpha) for epoch in count(1))
        # In half of all draws each of the two is mixed with itself.
        mixed_with_other = ((images, targets) for images, targets in draws if targets[0, 1] > 0)
        for ax, (images, targets) in zip(line[1:], mixed_with_other, strict=False):
            ax.imshow(images[0].permute(1, 2, 0).numpy())
            ax.set_title(", ".join(f"{n} {t:.2f}" for n, t in zip(names, targets[0].tolist(), strict=True)), fontsize=9)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def recording(seconds: float = 1.5) -> np.ndarray:
    """Four notes with overtones that die away, and a rising whistle above them."""
    time = np.arange(round(seconds * RATE)) / RATE
    waveform = 0.1 * np.sin(2 * np.pi * (2000 * time + 1000 * time**2))
    for i, hertz in enumerate((262, 330, 392, 523)):
        since = time - (0.1 + 0.32 * i)
        envelope = np.where(since > 0, np.exp(-8 * since.clip(0)), 0) * np.minimum(1, since.clip(0) / 0.01)
        waveform += 0.3 * envelope * sum(np.sin(2 * np.pi * k * hertz * since) / k for k in (1, 2, 3, 4))
    return waveform.astype(np.float32)


def draw_recordings(path: Path) -> None:
    """Waveforms over 1.9 s, all on one scale; spectrograms as the backbone hears them, below 8 kHz."""
    backbone, sound = load(resolve("openai/whisper-tiny.en", "audio"), torch.device("cpu"), "float32"), recording()
    figure, axes = grid([label(augment, "audio") for augment, _ in RECORDINGS], height=1.35)
    for (augment, shown), line in zip(RECORDINGS, axes, strict=True):
        augmentation = resolve_augmentation(augment, "audio")
        for draw, ax in enumerate(line):
            rng, waveform = sample_rng(0, epoch=draw, index=0), sound
            if draw:
                waveform = augmentation.on_sample(waveform, rng, sampling_rate=RATE)
            item = backbone.preprocess([waveform], AudioOptions(pad_to_window=False))[0][0]
            if draw:
                item = augmentation.on_item(item, rng, backbone)
            if shown == "waveform":
                ax.plot(np.arange(len(waveform)) / RATE, waveform, linewidth=0.4)
                ax.set(xlim=(0, 1.9), ylim=(-1.2, 1.2))
            else:
                mel = item.data["mel"]
                extent = (0, mel.shape[1] / 100, 0, len(mel))
                ax.imshow(mel, origin="lower", aspect="auto", extent=extent, vmin=-0.8, vmax=1.4)
                ax.set_xlim(0, 1.9)
    for ax in axes[-1]:
        ax.set_xticks([0, 0.5, 1, 1.5])
        ax.set_xlabel("seconds", fontsize=9)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def list_texts() -> None:
    """Each text as the backbone gets it, special tokens included."""
    backbone = load(resolve("sentence-transformers/all-MiniLM-L6-v2", "text"), torch.device("cpu"), "float32")
    print(f"{'original':22} {TEXT}")
    for augment in TEXTS:
        augmentation = resolve_augmentation(augment, "text")
        print(f"\n{label(augment, 'text', 100)}")
        for draw in range(1, DRAWS + 1):
            rng = sample_rng(0, epoch=draw, index=0)
            text = augmentation.on_sample(TEXT, rng)
            if augmentation.changes_items:
                item = augmentation.on_item(backbone.preprocess([text], TextOptions())[0][0], rng, backbone)
                text = backbone.tokenizer.decode(item.data["ids"])
            print(f"    {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", default=".", help="where to write the pictures")
    directory = parser.parse_args().directory
    with clear_errors(parser):
        directory.mkdir(parents=True, exist_ok=True)
    list_texts()
    for name, draw in (("images", draw_images), ("mixed", draw_mixed), ("audio", draw_recordings)):
        path = directory / f"augmentations_{name}.png"
        draw(path)
        print(f"\nwrote {path}", end="")
    print()


if __name__ == "__main__":
    main()
