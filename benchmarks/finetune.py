"""How fast fine-tuning is: a head on frozen features, a replayed prefix, and the whole recipe against others.

    python -m benchmarks.finetune [--only head replay deep recipe] [--repeats 3]

head : 10 epochs on a frozen backbone, against a loop that runs the backbone in every epoch, which is what training
    loops do. Images are decoded beforehand for both.
replay : the top 1 and 2 of MiniLM's 6 layers, 10 epochs, against our own loop without the replayed prefix, and how far
    apart the two loss curves are in float32; and against a plain loop that runs the frozen layers in every epoch.
deep : the top 2 of 12 blocks, ViT-S/16 and the shape of BERT base with random weights, likewise.
recipe : the whole progressive fit on topics, in both precisions, against skorch with its Freezer and Unfreezer and
    against the transformers Trainer, all judged on the same held-out samples; accuracy is that on others. Minutes a
    round.

Ways take turns, figures are medians, and ratios hold inside one run alone. Where they are of different libraries each
has a process of its own in each turn, as it has with those who use it; imports and a first run are not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, print_table, write
from benchmarks.measure import last_json
from benchmarks.peers import MissingPeerError

__all__ = ["GOALS", "main"]

Ways = dict[str, Callable[[], Any]]
EPOCHS = 10


def _apart(work: str, ways: Iterable[str], repeats: int) -> tuple[dict[str, dict[str, list[Any]]], dict[str, str]]:
    """What each way found in each turn, in a process of its own; and those that are missing, with the reason."""
    found: dict[str, dict[str, list[Any]]] = {}
    missing: dict[str, str] = {}
    for _ in range(repeats):
        for way in ways:
            if way in missing:
                continue
            print(f"{work}: {way} ...", file=sys.stderr)
            one = last_json(["-m", "benchmarks.finetune", "--child", work, way])
            if "missing" in one:
                missing[way] = one["missing"]
                continue
            for key, value in one.items():
                found.setdefault(way, {}).setdefault(key, []).append(value)
    return found, missing


def _child(work: str, way: str) -> None:
    """One turn of one way: a run that warms up, and one that counts."""
    found: dict[str, Any]
    try:
        found = APART[work](way)
    except MissingPeerError as error:
        found = {"missing": str(error)}
    print(json.dumps(found))


def _second(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a second run."""
    run()
    start = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - start}


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


def _fitted(embedder, X, y, *, replay: bool = True, **parameters) -> Any:
    from skembed import FineTuneClassifier, Optimization

    settings = {"max_epochs": EPOCHS, "validation_fraction": None, "refit": False, "random_state": 0}
    settings |= {"optimization": Optimization(dropout=0.0), **parameters}
    classifier = FineTuneClassifier(embedder, **settings)
    classifier._replay = replay
    return classifier.fit(X, y)


# -- a head on a frozen backbone ----------------------------------------------------------------------------

_EVERY_EPOCH = "frozen part in every epoch"


def head(repeats: int) -> dict[str, Any]:
    """Both modalities, both precisions."""
    return {
        "MiniLM": _against_plain_loop("head, MiniLM", "head only, MiniLM, 320 texts, 10 epochs", repeats),
        "EfficientNet-Lite0": _against_plain_loop(
            "head, EfficientNet-Lite0", "head only, EfficientNet-Lite0, 128 images, 10 epochs", repeats
        ),
    }


def _against_plain_loop(work: str, title: str, repeats: int) -> dict[str, float]:
    found, _ = _apart(work, [_EVERY_EPOCH, "skembed, float32", "skembed, auto"], repeats)
    return _table(title, {way: {"seconds": float(np.median(each["seconds"]))} for way, each in found.items()})


def _head_of_texts(way: str) -> dict[str, float]:
    from skembed import TextEmbedder

    texts, y = _topics(320)
    if way == _EVERY_EPOCH:
        return _second(_frozen_texts(texts, y))
    embedder = TextEmbedder(data.minilm(), device="cpu", cache=None, precision=way.removeprefix("skembed, "))
    return _second(lambda: _fitted(embedder, texts, y, strategy="head"))


def _frozen_texts(texts: list[str], y: np.ndarray) -> Callable[[], float]:
    from transformers import AutoModel, AutoTokenizer

    from benchmarks.trainers import frozen_each_epoch

    tokenizer, model = AutoTokenizer.from_pretrained(data.minilm()), AutoModel.from_pretrained(data.minilm()).eval()

    def embed(batch: np.ndarray):
        inputs = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1)
        return (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)

    return lambda: frozen_each_epoch(embed, len(texts), 384, y, epochs=EPOCHS)


def _head_of_images(way: str) -> dict[str, float]:
    from PIL import Image

    from skembed import ImageEmbedder

    images = [Image.open(path).convert("RGB") for path in data.images(128).samples]
    y = np.arange(len(images), dtype=np.int64) % 10
    if way == _EVERY_EPOCH:
        return _second(_frozen_images(images, y))
    embedder = ImageEmbedder(data.efficientnet(), device="cpu", cache=None, precision=way.removeprefix("skembed, "))
    return _second(lambda: _fitted(embedder, images, y, strategy="head"))


def _frozen_images(images: list[Any], y: np.ndarray) -> Callable[[], float]:
    import timm
    import torch

    from benchmarks.trainers import frozen_each_epoch

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    shown = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    model = model.eval()
    pixels = torch.stack([shown(image) for image in images])
    return lambda: frozen_each_epoch(lambda batch: model(pixels[batch]), len(images), 1280, y, epochs=EPOCHS)


# -- the replayed prefix ------------------------------------------------------------------------------------


def _replayed(title: str, embedder, X, y, repeats: int, **parameters) -> dict[str, float]:
    """Our loop with the prefix replayed and without."""
    ways: Ways = {
        "without replay": lambda: _fitted(embedder, X, y, replay=False, **parameters),
        "replayed": lambda: _fitted(embedder, X, y, **parameters),
    }
    timed = _timed(ways, repeats)
    curves = [np.array([r["train_loss"] for r in timed[name]["result"].history_]) for name in ways]
    apart = float(np.max(np.abs(curves[1] - curves[0]) / np.abs(curves[0])))
    return {"ratio": _table(title, timed)["replayed"], "curves apart": apart}


def replay(repeats: int) -> dict[str, Any]:
    """MiniLM."""
    from skembed import Partial, TextEmbedder

    texts, y = _topics(320)
    found = {}
    for n in (1, 2):
        for precision in ("float32", "auto"):
            embedder = TextEmbedder(data.minilm(), device="cpu", cache=None, precision=precision)
            title = f"top {n} of 6 layers, MiniLM, 320 texts, {EPOCHS} epochs, {precision}"
            found[f"top {n}, {precision}"] = _replayed(title, embedder, texts, y, repeats, strategy=Partial(n))
        work = f"top {n} of 6 layers, MiniLM"
        found[f"top {n}, plain loop"] = _against_plain_loop(work, f"{work}, 320 texts, {EPOCHS} epochs", repeats)
    return found


def _top_of_texts(n: int, way: str) -> dict[str, float]:
    from benchmarks.trainers import top_each_epoch
    from skembed import Partial, TextEmbedder

    texts, y = _topics(320)
    if way == _EVERY_EPOCH:
        return _second(lambda: top_each_epoch(data.minilm(), texts, y, n_unfrozen=n, epochs=EPOCHS))
    embedder = TextEmbedder(data.minilm(), device="cpu", cache=None, precision=way.removeprefix("skembed, "))
    return _second(lambda: _fitted(embedder, texts, y, strategy=Partial(n)))


def deep(repeats: int) -> dict[str, Any]:
    """Twelve blocks."""
    from skembed import ImageEmbedder, Partial, TextEmbedder

    texts, y = _topics(128)
    paths = data.images(48).samples
    images = ImageEmbedder(data.random_timm("vit_small_patch16_224"), device="cpu", cache=None)
    bert = TextEmbedder(data.random_bert(), device="cpu", cache=None)
    classes = np.arange(len(paths)) % 4
    return {
        "ViT-S/16": _replayed(
            "top 2 of 12 blocks, ViT-S/16", images, paths, classes, repeats, strategy=Partial(2)
        ),
        "BERT base": _replayed(
            "top 2 of 12 layers, BERT base", bert, texts, y, repeats, strategy=Partial(2)
        ),
    }  # fmt: skip


# -- the whole recipe ---------------------------------------------------------------------------------------

_OURS, _OURS_FLOAT32 = "skembed, progressive", "skembed, progressive, float32"
_SKORCH, _TRAINER = "skorch, Freezer and Unfreezer", "transformers Trainer, full"
#: Texts to train on, and the most epochs.
_N_TRAIN, _MOST_EPOCHS = 600, 30


def recipe(repeats: int) -> dict[str, Any]:
    """Progressive against other libraries; seconds, and accuracy on texts that none of them saw."""
    found, missing = _apart("recipe", [_OURS, _OURS_FLOAT32, _SKORCH, _TRAINER], repeats)
    rows: list[dict[str, Any]] = [
        {"way": way, "seconds": float(np.median(each["seconds"])), "accuracy": float(np.mean(each["accuracy"]))}
        for way, each in found.items()
    ]
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
        row["to float32"] = row["seconds"] / rows[1]["seconds"]
    print_table(f"the whole recipe, {_N_TRAIN} texts, at most {_MOST_EPOCHS} epochs", rows)
    for way, why in missing.items():
        print(f"{way} is skipped: {why}")
    return {row["way"]: row for row in rows}


def _recipe(way: str) -> dict[str, float]:
    texts, y = _topics(2400)
    n = _N_TRAIN
    part = slice(n), slice(n, n + 150), slice(n + 150, None)
    (X, X_val, X_test), (y, y_val, y_test) = [texts[p] for p in part], [y[p] for p in part]
    train = _recipes()[way]
    # Imports, and the files of the weights, are not what is compared.
    train(X[:60], y[:60], (X_val, y_val), epochs=1)
    start = time.perf_counter()
    predict = train(X, y, (X_val, y_val), epochs=_MOST_EPOCHS)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "accuracy": float((predict(X_test) == y_test).mean())}


def _recipes() -> Ways:
    from benchmarks import trainers
    from skembed import FineTuneClassifier, TextEmbedder

    directory = data.minilm()

    def ours(X, y, valid, *, epochs, precision="auto"):
        embedder = TextEmbedder(directory, device="cpu", cache=None, precision=precision)
        classifier = FineTuneClassifier(embedder, max_epochs=epochs, random_state=0)
        return classifier.fit(X, y, X_val=valid[0], y_val=valid[1]).predict

    return {
        _OURS: ours,
        _OURS_FLOAT32: partial(ours, precision="float32"),
        _SKORCH: partial(trainers.skorch_unfreezing, directory),
        _TRAINER: partial(trainers.trainer_full, directory),
    }


#: Works whose ways have a process each: what runs one way once.
APART = {
    "head, MiniLM": _head_of_texts,
    "head, EfficientNet-Lite0": _head_of_images,
    "top 1 of 6 layers, MiniLM": partial(_top_of_texts, 1),
    "top 2 of 6 layers, MiniLM": partial(_top_of_texts, 2),
    "recipe": _recipe,
}
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
_PLAIN = "a plain loop that runs the frozen layers in every epoch, float32"
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
    *(
        Goal(f"top {n} of 6 layers, MiniLM, {shown}", against, _at("replay", *path), bound, digits=2)
        for n, bound in ((1, 2.2), (2, 1.6))
        for shown, precision in (("float32", "float32"), ("precision auto", "auto"))
        for against, path in (
            (_OWN, (f"top {n}, {precision}", "ratio")),
            (_PLAIN, (f"top {n}, plain loop", f"skembed, {precision}")),
        )
    ),
    Goal("top 2 of 12 blocks, ViT-S/16", _OWN, _at("deep", "ViT-S/16", "ratio"), 2, digits=3),
    Goal("top 2 of 12 layers, BERT base", _OWN, _at("deep", "BERT base", "ratio"), 2, digits=3),
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
            ("skorch, Freezer and Unfreezer", _SKORCH),
            ("transformers Trainer", _TRAINER),
        )
    ),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS / "finetune.json")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if options.child:
        return _child(*options.child)
    data.workspace()  # before any process is started: they share it
    results = {name: WORKS[name](options.repeats) for name in options.only}
    write(document("finetune", repeats=options.repeats, results=results), options.json)


if __name__ == "__main__":
    main()
