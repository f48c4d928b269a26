"""A killed fit goes on from its last epoch and ends at the same result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import safe_open
from sklearn.metrics import f1_score, make_scorer

from skembed import FineTuneClassifier
from skembed.exceptions import FitWarning
from skembed.finetune import optimizer, stages
from skembed.finetune.checkpoint import Checkpoint
from skembed.testing import ArrayEmbedder
from tests.finetune import tuning


class Killed(BaseException):
    """As good as a SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4)).astype(np.float32)
    return X, (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)


def _classifier(directory=None, **parameters):
    settings = {"learning_rate": 1e-2, "backbone_factor": 1.0, "max_epochs": 14, "stage_epochs": 4, "random_state": 0}
    return FineTuneClassifier(
        ArrayEmbedder(precision="float32"), checkpoint_dir=directory, **{**settings, "dropout": 0.3, **parameters}
    )


def _kill_after(monkeypatch, n_epochs):
    original, done = Checkpoint.save, []

    def save(self, *arguments):
        original(self, *arguments)
        done.append(1)
        if len(done) == n_epochs:
            raise Killed

    monkeypatch.setattr(Checkpoint, "save", save)


@pytest.mark.parametrize("n_epochs", [1, 3, 4, 7])
@pytest.mark.parametrize("parameters", [{}, {"ema": 0.9, "mixup": 0.3}, {"strategy": "full", "patience": 14}])
def test_a_killed_fit_ends_at_the_same_result(rows, tmp_path, monkeypatch, n_epochs, parameters):
    whole = _classifier(**parameters).fit(*rows)
    with monkeypatch.context() as context:
        _kill_after(context, n_epochs)
        with pytest.raises(Killed):
            _classifier(tmp_path, **parameters).fit(*rows)
    assert len(list(tmp_path.iterdir())) == 1
    epochs = []
    original = stages.train_epoch
    monkeypatch.setattr(stages, "train_epoch", lambda *a, **k: epochs.append(1) or original(*a, **k))
    resumed = _classifier(tmp_path, refit=False, **parameters).fit(*rows)
    # What was done before is not done again.
    assert len(epochs) == len(whole.history_) - n_epochs
    resumed = _classifier(tmp_path, **parameters).fit(*rows)
    np.testing.assert_array_equal(resumed.predict_proba(rows[0]), whole.predict_proba(rows[0]))
    assert [r["train_loss"] for r in resumed.history_] == [r["train_loss"] for r in whole.history_]
    assert resumed.report_.splitlines()[0] == whole.report_.splitlines()[0]


def test_words_that_were_met_are_known_after_a_kill(tmp_path, monkeypatch):
    """Of a table that trains by rows, moments of the rows that were met alone are in the file."""
    monkeypatch.setattr(optimizer, "_LARGE", 1)
    X, y = tuning.samples("bert")
    settings = {**tuning.SHORT, "max_epochs": 4, "strategy": "full", "dropout": 0.1}

    def fit(directory=None):
        embedder = tuning.embedder("bert", precision="float32")
        return FineTuneClassifier(embedder, checkpoint_dir=directory, **settings).fit(X, y)

    whole = fit()
    with monkeypatch.context() as context:
        _kill_after(context, 2)
        with pytest.raises(Killed):
            fit(tmp_path)
    with safe_open(next(tmp_path.iterdir()), framework="pt") as file:
        met = {name.removesuffix("/met"): file.get_tensor(name) for name in file.keys() if name.endswith("/met")}  # noqa: SIM118
        assert met
        for name, each in met.items():
            assert 0 < each.sum() < len(each)
            assert len(file.get_tensor(f"{name}/exp_avg")) == each.sum()
    resumed = fit(tmp_path)
    assert [r["train_loss"] for r in resumed.history_] == [r["train_loss"] for r in whole.history_]


def test_the_file_goes_away_once_the_fit_is_over(rows, tmp_path):
    _classifier(tmp_path).fit(*rows)
    assert list(tmp_path.iterdir()) == []


def test_other_data_or_settings_have_other_files(rows, tmp_path, monkeypatch):
    X, y = rows
    with monkeypatch.context() as context:
        _kill_after(context, 2)
        with pytest.raises(Killed):
            _classifier(tmp_path).fit(X, y)
    other = _classifier(tmp_path, learning_rate=2e-2).fit(X, y)
    assert other.history_ != []
    np.testing.assert_array_equal(other.predict_proba(X), _classifier(learning_rate=2e-2).fit(X, y).predict_proba(X))
    swapped = _classifier(tmp_path).fit(X, 1 - y)
    np.testing.assert_array_equal(swapped.predict_proba(X), _classifier().fit(X, 1 - y).predict_proba(X))
    # The killed one's is still there, and is its own.
    assert len(list(tmp_path.iterdir())) == 1


def _sixth_root(y, outputs):
    return float((y == outputs).mean() ** (1 / 6))


class _Judge:
    def __call__(self, estimator, X, y):
        return 0.0


@pytest.mark.parametrize("scoring", ["balanced_accuracy", make_scorer(_sixth_root), make_scorer(f1_score, pos_label=0)])
def test_another_score_has_another_file(rows, tmp_path, monkeypatch, scoring):
    """What the best epoch was told by one is nothing to the other."""
    with monkeypatch.context() as context:
        _kill_after(context, 3)
        with pytest.raises(Killed):
            _classifier(tmp_path).fit(*rows)
    found = _classifier(tmp_path, scoring=scoring).fit(*rows)
    expected = _classifier(scoring=scoring).fit(*rows)
    assert found.validation_score_ == expected.validation_score_
    assert [each["valid_score"] for each in found.history_] == [each["valid_score"] for each in expected.history_]


def test_the_name_of_a_score_is_the_same_in_every_process():
    code = (
        "from functools import partial\nfrom sklearn.metrics import make_scorer\nfrom skembed.naming import shown\n"
        "from tests.finetune.test_checkpoint import _Judge, _sixth_root\n"
        "scores = (None, 'accuracy', _sixth_root, make_scorer(_sixth_root), partial(_sixth_root, y=0), _Judge())\n"
        "print(*map(shown, scores))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert "_sixth_root" in runs[0].stdout
    assert "0x" not in runs[0].stdout


def test_without_a_seed_a_fit_still_resumes(rows, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        _kill_after(context, 3)
        with pytest.raises(Killed):
            _classifier(tmp_path, random_state=None).fit(*rows)
    resumed = _classifier(tmp_path, random_state=None).fit(*rows)
    np.testing.assert_array_equal(
        resumed.predict_proba(rows[0]), _classifier(random_state=0).fit(*rows).predict_proba(rows[0])
    )


def test_a_damaged_checkpoint_begins_anew_with_a_warning(rows, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        _kill_after(context, 3)
        with pytest.raises(Killed):
            _classifier(tmp_path).fit(*rows)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(FitWarning, match="cannot be read"):
        fitted = _classifier(tmp_path).fit(*rows)
    np.testing.assert_array_equal(fitted.predict_proba(rows[0]), _classifier().fit(*rows).predict_proba(rows[0]))


def test_a_full_disk_costs_the_checkpoint_and_not_the_fit(rows, tmp_path, monkeypatch):
    def full(*_arguments, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skembed.finetune.checkpoint.save_file", full)
    with pytest.warns(FitWarning, match="No checkpoint could be written"):
        fitted = _classifier(tmp_path).fit(*rows)
    assert fitted.n_epochs_ > 3
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys, numpy as np
from skembed import FineTuneClassifier
from skembed.testing import ArrayEmbedder
from tests.finetune import tuning
rng = np.random.default_rng(0)
X = rng.normal(size=(400, 4)).astype(np.float32)
y = (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)
classifier = FineTuneClassifier(
    ArrayEmbedder(precision="float32"), strategy="full", learning_rate=1e-2, backbone_factor=1.0, max_epochs=40,
    patience=40, random_state=0, checkpoint_dir=sys.argv[1] or None, verbose=1,
).fit(X, y)
print("digest", classifier.predict_proba(X).tobytes().hex()[:64], classifier.n_epochs_)
"""


def test_sigkill(tmp_path):
    """The real thing, in a process of its own, at whatever moment it comes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SKEMBED_CACHE": "none"}

    def start(directory):
        command = [sys.executable, "-c", SCRIPT, str(directory)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    expected = start("").communicate(timeout=120)[0].splitlines()[-1]
    for n_lines in (3, 9):
        process = start(tmp_path)
        for _ in range(n_lines):
            process.stdout.readline()
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    output = start(tmp_path).communicate(timeout=120)[0].splitlines()
    assert output[-1] == expected
    assert len(output) - 1 < 40 - 9, "epochs that were done before were done again"
