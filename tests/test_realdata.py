"""Real images, recordings and texts, real weights: accuracy, and agreement with plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import AudioEmbedder, FineTuneClassifier, ImageEmbedder, TextEmbedder

pytestmark = pytest.mark.realdata

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def images(data):
    return sorted((data / "images").glob("*/*.jpg"))


@pytest.fixture(scope="module")
def clips(data):
    return sorted((data / "speech").glob("*/*.wav"))


@pytest.fixture(scope="module")
def topics(data):
    return pd.read_csv(data / "package_topics.csv")


def _classifier():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def _accuracy(embedder, X, y):
    """Five-fold accuracy; a frozen embedder learns nothing from X, so one transform serves all folds."""
    return cross_val_score(_classifier(), embedder.fit_transform(X), y, cv=FOLDS).mean()


def test_topics(topics):
    assert _accuracy(TextEmbedder(), topics["text"], topics["topic"]) >= 0.795


def test_images(images):
    assert _accuracy(ImageEmbedder(), images, [path.parent.name for path in images]) >= 0.865


def test_speech(clips):
    assert _accuracy(AudioEmbedder(), clips, [path.parent.name for path in clips]) >= 0.98


def test_a_pipeline_scores_as_its_embeddings_do(topics):
    """Embedding inside each fold and once before gives the same scores: nothing leaks."""
    X, y = topics["text"][:400], topics["topic"][:400].isin(["science", "math"])
    inside = cross_val_score(make_pipeline(TextEmbedder(), _classifier()), X, y, cv=FOLDS)
    before = cross_val_score(_classifier(), TextEmbedder().fit_transform(X), y, cv=FOLDS)
    np.testing.assert_allclose(inside, before, atol=0.02)


def _cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_texts_equal_a_plain_transformers_loop(topics):
    import torch
    from transformers import AutoModel, AutoTokenizer

    from skembed.backbones.weights.bundled import bundled_directory

    directory = bundled_directory("sentence-transformers/all-MiniLM-L6-v2")
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    texts = topics["text"][:100].tolist()
    plain = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        plain.append((hidden / hidden.norm()).numpy())
    rows = TextEmbedder(precision="float32").fit_transform(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert _cosine(rows, np.stack(plain)).min() >= 0.99999


def test_images_equal_a_plain_timm_loop(images):
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    from skembed.backbones.weights.bundled import bundled_directory

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(load_file(bundled_directory("tf_efficientnet_lite0.in1k") / "model.safetensors"))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    chosen = images[::7]
    with torch.no_grad():
        plain = [
            model.global_pool(model.forward_features(transform(Image.open(p).convert("RGB"))[None]))[0] for p in chosen
        ]
    rows = ImageEmbedder(precision="float32").fit_transform(chosen)
    assert _cosine(rows, torch.stack(plain).numpy()).min() >= 0.99999


def test_recordings_equal_a_plain_whisper_loop(data, clips):
    import soundfile
    import soxr
    import torch
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    reference = data.parent / "models" / "whisper-tiny-en-encoder"
    model = WhisperEncoder.from_pretrained(reference, dtype=torch.float32).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(reference)
    chosen, plain = clips[::16], []
    for path in chosen:
        samples, rate = soundfile.read(path, dtype="float32")
        waveform = soxr.resample(samples, rate, 16000)
        features = extractor(waveform, sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            hidden = model(features).last_hidden_state[0]
        plain.append(hidden[: -(-len(waveform) // 320)].mean(0).numpy())
    rows = AudioEmbedder(precision="float32").fit_transform(chosen)
    assert _cosine(rows, np.stack(plain)).min() >= 0.99999


@pytest.mark.parametrize("modality", ["texts", "recordings", "recordings on their own length"])
def test_half_precision_stays_near_float32(modality, topics, clips):
    """What the README promises of precision="auto" where it is bfloat16."""
    cls, samples, parameters = {
        "texts": (TextEmbedder, list(topics["text"][:300]), {}),
        "recordings": (AudioEmbedder, clips[::8], {}),
        "recordings on their own length": (AudioEmbedder, clips[::8], {"pad_to_window": False}),
    }[modality]
    rows = {
        precision: cls(precision=precision, device="cpu", cache=None, **parameters).fit_transform(samples)
        for precision in ("float32", "bfloat16")
    }
    cosine = _cosine(*rows.values())
    assert cosine.mean() >= 0.9999
    assert cosine.min() >= 0.999


def test_auto_is_float32_for_convolutional_networks_on_a_cpu(images):
    """In bfloat16 EfficientNet-Lite0's rows have a cosine of 0.995 to float32, which is not what auto promises."""
    rows = {
        precision: ImageEmbedder(precision=precision, device="cpu", cache=None).fit_transform(images[::40])
        for precision in ("float32", "auto", "bfloat16")
    }
    np.testing.assert_array_equal(rows["auto"], rows["float32"])
    assert _cosine(rows["bfloat16"], rows["float32"]).min() < 0.999


# -- fine-tuning ----------------------------------------------------------------------------------------


def test_in_a_near_domain_fine_tuning_is_no_worse_than_the_probe(topics):
    X, X_test, y, y_test = train_test_split(
        topics["text"].tolist(), topics["topic"], train_size=500, stratify=topics["topic"], random_state=0
    )
    embedder = TextEmbedder()
    frozen = _classifier().fit(embedder.fit_transform(X), y).score(embedder.transform(X_test), y_test)
    tuned = FineTuneClassifier(embedder, strategy="partial", max_epochs=6, random_state=0).fit(X, y)
    assert tuned.score(X_test, y_test) > frozen - 0.01
