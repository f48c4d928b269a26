"""Raw samples to embeddings, against a plain loop on the same library and weights.

    python -m benchmarks.embed [--samples 200] [--repeats 3]

Both sides run in this process, in turn, with the same threads, inputs, weights and float32. Prints a table, and a
line of JSON at the end. Texts are docstrings of installed packages, images and clips are seeded noise of realistic
sizes, so that no data is needed; decoding is not part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.backbones.bundled import bundled_directory


def text_case(n: int) -> tuple[Callable, Callable]:
    """MiniLM on docstrings, one text at a time as the model card has it, against TextEmbedder."""
    import sklearn.utils.discovery
    from transformers import AutoModel, AutoTokenizer

    directory = bundled_directory("sentence-transformers/all-MiniLM-L6-v2")
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    functions = (function for _, function in sklearn.utils.discovery.all_functions())
    texts = [" ".join((function.__doc__ or "none").split())[:200] for function in functions][:n]

    def plain():
        rows = []
        for text in texts:
            with torch.inference_mode():
                batch = tokenizer(text, return_tensors="pt")
                rows.append(torch.nn.functional.normalize(model(**batch).last_hidden_state[0].mean(0), dim=0))
        return torch.stack(rows).numpy()

    embedder = TextEmbedder(device="cpu", precision="float32").fit(texts)
    return plain, lambda: embedder.transform(texts)


def image_case(n: int) -> tuple[Callable, Callable]:
    """EfficientNet-Lite0 with timm's own transform, in batches of 8, against ImageEmbedder."""
    import timm

    directory = bundled_directory("tf_efficientnet_lite0.in1k")
    model = timm.create_model(f"local-dir:{directory}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (320, 240, 3), dtype=np.uint8)) for _ in range(n)]

    def plain():
        rows = []
        for start in range(0, len(images), 8):
            with torch.inference_mode():
                rows.append(model(torch.stack([transform(image) for image in images[start : start + 8]])))
        return torch.cat(rows).numpy()

    embedder = ImageEmbedder(device="cpu", precision="float32").fit(images)
    return plain, lambda: embedder.transform(images)


def audio_case(n: int, *, pad_to_window: bool) -> tuple[Callable, Callable]:
    """Whisper tiny.en, one clip at a time padded to 30 s, against AudioEmbedder."""
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    directory = bundled_directory("openai/whisper-tiny.en")
    model = WhisperEncoder.from_pretrained(directory, dtype=torch.float32).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(directory)
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.normal(size=rng.integers(16_000, 96_000)).astype(np.float32) for _ in range(n)]

    def plain():
        rows = []
        for clip in clips:
            features = extractor(clip, sampling_rate=16_000, return_tensors="pt").input_features
            with torch.inference_mode():
                rows.append(model(features).last_hidden_state[0, : -(-len(clip) // 320)].mean(0))
        return torch.stack(rows).numpy()

    embedder = AudioEmbedder(sampling_rate=16_000, pad_to_window=pad_to_window, device="cpu", precision="float32")
    embedder.fit(clips)
    return plain, lambda: embedder.transform(clips)


def measure(name: str, n: int, case: tuple[Callable, Callable], repeats: int) -> dict:
    """Medians of both sides in turn, their ratio, and how alike their rows are."""
    plain, ours = case
    expected, rows = plain(), ours()  # and a warm-up
    cosine = (expected * rows).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(rows, axis=1)
    seconds: dict[str, list[float]] = {"plain": [], "skembed": []}
    for _ in range(repeats):
        for side, run in (("plain", plain), ("skembed", ours)):
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return {
        "work": name,
        "plain_per_s": round(n / medians["plain"], 1),
        "skembed_per_s": round(n / medians["skembed"], 1),
        "ratio": round(medians["plain"] / medians["skembed"], 2),
        "min_cosine": round(float(cosine.min()), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    n_images, n_clips = max(arguments.samples // 4, 2), max(arguments.samples // 10, 2)
    results = [
        measure("texts, MiniLM", arguments.samples, text_case(arguments.samples), arguments.repeats),
        measure("images, EfficientNet-Lite0", n_images, image_case(n_images), arguments.repeats),
        measure("clips of 1-6 s, Whisper, 30 s", n_clips, audio_case(n_clips, pad_to_window=True), arguments.repeats),
        measure("the same, own length", n_clips, audio_case(n_clips, pad_to_window=False), arguments.repeats),
    ]
    print(f"float32, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print("  ".join(f"{key:>30}" if key == "work" else f"{key:>13}" for key in results[0]))
    for row in results:
        print("  ".join(f"{value:>30}" if key == "work" else f"{value:>13}" for key, value in row.items()))
    print(json.dumps({"threads": torch.get_num_threads(), "results": results}))


if __name__ == "__main__":
    main()
