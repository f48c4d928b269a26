"""How fast fine-tuning is: a head on frozen features, a replayed prefix, and the whole recipe against others.

    python -m benchmarks.finetune [--only head replay deep recipe] [--repeats 3]

head : 10 epochs on a frozen backbone, against a loop that runs the backbone in every epoch, which is what training
    loops do. Images are decoded beforehand for both.
replay : the top 1 and 2 of MiniLM's 6 layers, 10 epochs, against our own loop without the replayed prefix; and how far
    apart the two loss curves are in float32.
deep : the top 2 of 12 blocks, ViT-S/16 and the shape of BERT base with random weights, likewise.
recipe : the whole progressive fit on topics, in both precisions, against skorch with its Freezer and Unfreezer and
    against the transformers Trainer, all judged on the same held-out samples; accuracy is that on others. Minutes a
    round.

Ways take turns, figures are medians, and ratios hold inside one run alone.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, print_table, write
from benchmarks.peers import MissingPeerError

__all__ = ["GOALS", "main"]

Ways = dict[str, Callable[[], Any]]
EPOCHS = 10


def _timed(ways: Ways, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each way, in turns, after one round that warms up; and what each returned last."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    last: dict[str, Any] = {}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            last[name] = run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: {"seconds": float(np.median(each)), "result": last[name]} for name, each in times.items()}


def _table(title: str, timed: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Print seconds and ratios to the first way; return the ratios."""
    reference = next(iter(timed.values()))["seconds"]
    rows = [
        {"way": name, "seconds": found["seconds"], "ratio": reference / found["seconds"]}
        for name, found in timed.items()
    ]
    print_table(title, rows)
    return {row["way"]: row["ratio"] for row in rows}


def _topics(n: int) -> tuple[list[str], np.ndarray]:
    texts, labels, _ = data.labelled_texts(n)
    return texts, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _fitted(embedder, X, y, **parameters) -> Any:
    from skembed import FineTuneClassifier

    settings = {"max_epochs": EPOCHS, "validation_fraction": None, "refit": False, "random_state": 0, "dropout": 0.0}
    settings |= parameters
    return FineTuneClassifier(embedder, **settings).fit(X, y)


# -- a head on a frozen backbone ----------------------------------------------------------------------------


def head(repeats: int) -> dict[str, Any]:
    """Both modalities, both precisions."""
    return {"MiniLM": _head_of_texts(repeats), "EfficientNet-Lite0": _head_of_images(repeats)}


def _head_of_texts(repeats: int) -> dict[str, float]:
    from transformers import AutoModel, AutoTokenizer

    from benchmarks.trainers import frozen_each_epoch
    from skembed import TextEmbedder

    texts, y = _topics(320)
    tokenizer, model = AutoTokenizer.from_pretrained(data.minilm()), AutoModel.from_pretrained(data.minilm()).eval()

    def embed(batch: np.ndarray):
        inputs = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1)
        return (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)

    ways: Ways = {"frozen backbone in every epoch": lambda: frozen_each_epoch(embed, 320, 384, y, epochs=EPOCHS)}
    for precision in ("float32", "auto"):
        embedder = TextEmbedder(data.minilm(), device="cpu", cache=None, precision=precision)
        ways[f"skembed, {precision}"] = lambda embedder=embedder: _fitted(embedder, texts, y, strategy="head")
    return _table("head only, MiniLM, 320 texts, 10 epochs", _timed(ways, repeats))


def _head_of_images(repeats: int) -> dict[str, float]:
    import timm
    import torch
    from PIL import Image

    from benchmarks.trainers import frozen_each_epoch
    from skembed import ImageEmbedder

    images = [Image.open(path).convert("RGB") for path in data.images(128).samples]
    y = np.arange(len(images), dtype=np.int64) % 10
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    shown = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    model = model.eval()
    pixels = torch.stack([shown(image) for image in images])
    ways: Ways = {
        "frozen backbone in every epoch": lambda: frozen_each_epoch(
            lambda batch: model(pixels[batch]), len(images), 1280, y, epochs=EPOCHS
        )
    }
    for precision in ("float32", "auto"):
        embedder = ImageEmbedder(data.efficientnet(), device="cpu", cache=None, precision=precision)
        ways[f"skembed, {precision}"] = lambda embedder=embedder: _fitted(embedder, images, y, strategy="head")
    return _table(f"head only, EfficientNet-Lite0, {len(images)} images, 10 epochs", _timed(ways, repeats))


# -- the replayed prefix ------------------------------------------------------------------------------------


def _replayed(title: str, embedder, X, y, repeats: int, **parameters) -> dict[str, float]:
    """Our loop with the prefix replayed and without."""
    ways: Ways = {
        "without replay": lambda: _fitted(embedder, X, y, strategy="partial", replay_prefix=False, **parameters),
        "replayed": lambda: _fitted(embedder, X, y, strategy="partial", **parameters),
    }
    timed = _timed(ways, repeats)
    curves = [np.array([r["train_loss"] for r in timed[name]["result"].history_]) for name in ways]
    apart = float(np.max(np.abs(curves[1] - curves[0]) / np.abs(curves[0])))
    return {"ratio": _table(title, timed)["replayed"], "curves apart": apart}


def replay(repeats: int) -> dict[str, Any]:
    """MiniLM."""
    from skembed import TextEmbedder

    texts, y = _topics(320)
    found = {}
    for n in (1, 2):
        for precision in ("float32", "auto"):
            embedder = TextEmbedder(data.minilm(), device="cpu", cache=None, precision=precision)
            title = f"top {n} of 6 layers, MiniLM, 320 texts, {EPOCHS} epochs, {precision}"
            found[f"top {n}, {precision}"] = _replayed(title, embedder, texts, y, repeats, n_unfrozen=n)
    return found


def deep(repeats: int) -> dict[str, Any]:
    """Twelve blocks."""
    from skembed import ImageEmbedder, TextEmbedder

    texts, y = _topics(128)
    paths = data.images(48).samples
    images = ImageEmbedder(data.random_timm("vit_small_patch16_224"), device="cpu", cache=None)
    bert = TextEmbedder(data.random_bert(), device="cpu", cache=None)
    classes = np.arange(len(paths)) % 4
    return {
        "ViT-S/16": _replayed(
            "top 2 of 12 blocks, ViT-S/16", images, paths, classes, repeats, n_unfrozen=2
        ),
        "BERT base": _replayed(
            "top 2 of 12 layers, BERT base", bert, texts, y, repeats, n_unfrozen=2
        ),
    }  # fmt: skip


# -- the whole recipe ---------------------------------------------------------------------------------------


def recipe(repeats: int, n_train: int = 600, epochs: int = 30) -> dict[str, Any]:
    """Progressive against other libraries; seconds, and accuracy on texts that none of them saw."""
    from benchmarks import trainers
    from skembed import FineTuneClassifier, TextEmbedder

    texts, y = _topics(2400)
    part = slice(n_train), slice(n_train, n_train + 150), slice(n_train + 150, None)
    (X, X_val, X_test), (y, y_val, y_test) = [texts[p] for p in part], [y[p] for p in part]
    directory = data.minilm()

    def ours(X, y, valid, *, epochs, precision="auto"):
        embedder = TextEmbedder(directory, device="cpu", cache=None, precision=precision)
        classifier = FineTuneClassifier(embedder, max_epochs=epochs, random_state=0)
        return classifier.fit(X, y, X_val=valid[0], y_val=valid[1]).predict

    ways = {
        "skembed, progressive": ours,
        "skembed, progressive, float32": partial(ours, precision="float32"),
        "skorch, Freezer and Unfreezer": partial(trainers.skorch_unfreezing, directory),
        "transformers Trainer, full": partial(trainers.trainer_full, directory),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    accuracies: dict[str, list[float]] = {name: [] for name in ways}
    skipped = {}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            if name in skipped:
                continue
            # Imports, and the files of the weights, are for whoever comes first: a short round before those that count.
            n, most = (n_train, epochs) if turn else (60, 1)
            start = time.perf_counter()
            try:
                predict = run(X[:n], y[:n], (X_val, y_val), epochs=most)
            except MissingPeerError as error:
                skipped[name] = str(error)
                continue
            if turn:
                seconds[name].append(time.perf_counter() - start)
                accuracies[name].append(float((predict(X_test) == y_test).mean()))
    rows: list[dict[str, Any]] = [
        {"way": name, "seconds": float(np.median(seconds[name])), "accuracy": float(np.mean(accuracies[name]))}
        for name in ways
        if name not in skipped
    ]
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
        row["to float32"] = row["seconds"] / rows[1]["seconds"]
    print_table(f"the whole recipe, {n_train} texts, at most {epochs} epochs", rows)
    for line in skipped.values():
        print(f"skipped: {line}")
    return {row["way"]: row for row in rows}


WORKS = {"head": head, "replay": replay, "deep": deep, "recipe": recipe}


def _at(*path: str) -> Callable[[Mapping[str, Any]], float]:
    def value(found: Mapping[str, Any]) -> float:
        place: Any = found["results"]
        for key in path:
            place = place[key]
        return float(place)

    return value


_EACH = "the frozen backbone run in every epoch, float32"
_OWN = "the same loop without the replayed prefix"
GOALS = [
    *(
        Goal(f"head only, {name}, {shown}", _EACH, _at("head", name, f"skembed, {precision}"), bound)
        for name, shown, precision, bound in (
            ("MiniLM", "float32", "float32", 12),
            ("MiniLM", "precision auto", "auto", 25),
            ("EfficientNet-Lite0", "float32", "float32", 11),
            ("EfficientNet-Lite0", "precision auto", "auto", 20),
        )
    ),
    Goal("top 1 of 6 layers, MiniLM", _OWN, _at("replay", "top 1, auto", "ratio"), 2.2),
    Goal("top 2 of 6 layers, MiniLM", _OWN, _at("replay", "top 2, auto", "ratio"), 1.6),
    Goal("top 2 of 12 blocks, ViT-S/16", _OWN, _at("deep", "ViT-S/16", "ratio"), 2),
    Goal("top 2 of 12 layers, BERT base", _OWN, _at("deep", "BERT base", "ratio"), 2),
    Goal(
        "replayed and plain loss curves, float32: relative difference", "",
        _at("replay", "top 2, float32", "curves apart"), 1e-4, "", at_most=True, digits=6,
    ),
    *(
        Goal(
            f"the whole progressive recipe, topics, {shown}", f"{peer}, float32",
            _at("recipe", way, ratio), 3,
        )
        for shown, ratio in (("float32", "to float32"), ("precision auto", "ratio"))
        for peer, way in (
            ("skorch, Freezer and Unfreezer", "skorch, Freezer and Unfreezer"),
            ("transformers Trainer", "transformers Trainer, full"),
        )
    ),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS / "finetune.json")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    results = {name: WORKS[name](options.repeats) for name in options.only}
    write(document("finetune", repeats=options.repeats, results=results), options.json)


if __name__ == "__main__":
    main()
