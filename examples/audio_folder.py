"""Classify your own recordings: a folder with one sub-folder a class.

python examples/audio_folder.py PATH [--backbone NAME] [--own-length]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from common import classifier, require_classes, score, score_embeddings, table

from skembed import AudioEmbedder

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}


def spectrum(path: Path, n_bands: int = 64) -> np.ndarray:
    """Log mean power in bands of the spectrum, the classical baseline."""
    samples, _ = soundfile.read(path, always_2d=True)
    power = np.abs(np.fft.rfft(samples.mean(axis=1), n=8192)) ** 2
    return np.log([band.mean() + 1e-10 for band in np.array_split(power, n_bands)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder with one sub-folder a class")
    parser.add_argument("--backbone", default="openai/whisper-tiny.en")
    parser.add_argument("--own-length", action="store_true", help="run Whisper on the clip's own length, faster")
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.path.glob("*/*") if file.suffix.lower() in SUFFIXES)
    labels = [file.parent.name for file in files]
    require_classes(labels)
    print(f"{len(files)} recordings of {len(set(labels))} classes")
    embedder = AudioEmbedder(arguments.backbone, pad_to_window=not arguments.own_length, verbose=True)
    results = [
        score("spectrum, 64 bands", classifier(), np.stack([spectrum(file) for file in files]), labels),
        score_embeddings("AudioEmbedder", embedder, files, labels),
    ]
    print(table(results))


if __name__ == "__main__":
    main()
