"""A killed fit goes on from its last epoch and ends at the same result."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.metrics import f1_score, make_scorer

from skembed import Augmentation, FineTuneClassifier, Progressive
from skembed.exceptions import FitWarning
from skembed.finetune import recipe as recipe_module
from skembed.finetune.checkpoint import Checkpoint
from skembed.testing import ArrayEmbedder
from tests.finetune import tuning
from tests.finetune.scores import names, sixth_root


class Killed(BaseException):
    """As good as a SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4)).astype(np.float32)
    return X, (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)


def _classifier(directory=None, **parameters):
    settings = {
        "learning_rate": 1e-2,
        "optimization__backbone_factor": 1.0,
        "max_epochs": 14,
        "strategy": Progressive(stage_epochs=4),
        "random_state": 0,
    }
    classifier = FineTuneClassifier(ArrayEmbedder(precision="float32"), checkpoint_dir=directory)
    return classifier.set_params(**{**settings, "optimization__dropout": 0.3, **parameters})


def _kill_after(monkeypatch, n_epochs):
    original, done = Checkpoint.save, []

    def save(self, *arguments):
        original(self, *arguments)
        done.append(1)
        if len(done) == n_epochs:
            raise Killed

    monkeypatch.setattr(Checkpoint, "save", save)


def _count_epochs(monkeypatch) -> list:
    """Return a list that becomes longer by one in each epoch, those of a refit among them."""
    epochs, original = [], recipe_module.train_epoch
    monkeypatch.setattr(recipe_module, "train_epoch", lambda *a, **k: epochs.append(1) or original(*a, **k))
    return epochs


@pytest.fixture(
    scope="module",
    params=[{}, {"optimization__ema": 0.9, "mix": "mixup", "mix__alpha": 0.3}, {"strategy": "full", "patience": 14}],
    ids=str,
)
def whole(rows, request):
    """Return parameters, a fit that nothing killed and the number of its epochs."""
    with pytest.MonkeyPatch.context() as context:
        epochs = _count_epochs(context)
        return request.param, _classifier(**request.param).fit(*rows), len(epochs)


@pytest.mark.parametrize("n_epochs", [1, 3, 4, 7])
def test_a_killed_fit_ends_at_the_same_result(rows, whole, tmp_path, monkeypatch, n_epochs):
    parameters, whole, n_whole = whole
    with monkeypatch.context() as context:
        _kill_after(context, n_epochs)
        with pytest.raises(Killed):
            _classifier(tmp_path, **parameters).fit(*rows)
    assert len(list(tmp_path.iterdir())) == 1
    epochs = _count_epochs(monkeypatch)
    resumed = _classifier(tmp_path, **parameters).fit(*rows)
    # What was done before is not done again.
    assert len(epochs) == n_whole - n_epochs
    np.testing.assert_array_equal(resumed.predict_proba(rows[0]), whole.predict_proba(rows[0]))
    assert [r["train_loss"] for r in resumed.history_] == [r["train_loss"] for r in whole.history_]
    assert resumed.report_.splitlines()[0] == whole.report_.splitlines()[0]


def test_a_killed_fit_of_a_whole_text_network_ends_at_the_same_result(tmp_path, monkeypatch):
    X, y = tuning.samples("bert")
    settings = {**tuning.SHORT, "max_epochs": 4, "strategy": "full", "optimization__dropout": 0.1}

    def fit(directory=None):
        embedder = tuning.embedder("bert", precision="float32")
        return FineTuneClassifier(embedder, checkpoint_dir=directory).set_params(**settings).fit(X, y)

    whole = fit()
    with monkeypatch.context() as context:
        _kill_after(context, 2)
        with pytest.raises(Killed):
            fit(tmp_path)
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


@pytest.mark.parametrize("scoring", ["balanced_accuracy", make_scorer(sixth_root), make_scorer(f1_score, pos_label=0)])
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


def _name(monkeypatch, tmp_path, classifier, X, y) -> str:
    """Name of the file of a fit that is killed before its first epoch."""
    names = []

    def resume(self, recipe):
        names.append(self.path.name)
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(Checkpoint, "resume", resume)
        with pytest.raises(Killed):
            classifier.set_params(checkpoint_dir=tmp_path).fit(X, y)
    return names[0]


def test_equal_targets_and_settings_have_one_file(rows, tmp_path, monkeypatch):
    X, y = rows
    names = [
        _name(monkeypatch, tmp_path, _classifier(), X, y),
        _name(monkeypatch, tmp_path, _classifier(), X, y.tolist()),
        _name(monkeypatch, tmp_path, _classifier(), X, y.astype(np.int8)),
        _name(monkeypatch, tmp_path, _classifier(optimization__dropout=np.float64(0.3), max_epochs=np.int64(14)), X, y),
    ]
    assert len(set(names)) == 1
    others = [
        _name(monkeypatch, tmp_path, _classifier(scoring=make_scorer(score)), X, y)
        for score in (lambda y, outputs: 0.0, lambda y, outputs: 1.0)
    ]
    assert len({*names, *others}) == 3


def test_augmentations_are_told_apart_by_what_they_do(tmp_path, monkeypatch):
    X, y = tuning.samples("bert")

    def name(augment):
        embedder = tuning.embedder("bert", precision="float32")
        classifier = FineTuneClassifier(embedder, augment=Augmentation(augment, views=1), **tuning.SHORT)
        return _name(monkeypatch, tmp_path, classifier, X, y)

    def replacing(*synonyms):
        return ("synonym_replacement", {"synonyms": {"cat": list(synonyms)}})

    equal = [("word_swap", {"rate": rate}) for rate in (0.5, np.float64(0.5))]
    assert name(equal[0]) == name(equal[1])
    different = [replacing("dog"), replacing("horse"), lambda text: text.lower(), lambda text: text.upper()]
    assert len(set(map(name, different))) == 4


def test_the_name_of_a_score_is_the_same_in_every_process():
    code = "from tests.finetune.scores import names\nprint(names())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there == names() + "\n"
    assert "sixth_root" in there
    assert "0x" not in there


def test_without_a_seed_a_fit_still_resumes(rows, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        _kill_after(context, 3)
        with pytest.raises(Killed):
            _classifier(tmp_path, random_state=None).fit(*rows)
    resumed = _classifier(tmp_path, random_state=None).fit(*rows)
    np.testing.assert_array_equal(
        resumed.predict_proba(rows[0]), _classifier(random_state=0).fit(*rows).predict_proba(rows[0])
    )


def test_a_resumed_fit_says_at_which_epoch(rows, tmp_path, monkeypatch, capsys, caplog):
    with monkeypatch.context() as context:
        _kill_after(context, 5)
        with pytest.raises(Killed):
            _classifier(tmp_path, max_epochs=20).fit(*rows)
    caplog.set_level("INFO", logger="skembed")
    resumed = _classifier(tmp_path, max_epochs=20, verbose=1).fit(*rows)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("[FineTuneClassifier] Resumed at epoch 6 of 20 from checkpoint_dir=")
    assert second.startswith("[FineTuneClassifier] epoch 6")
    assert "Resumed at epoch 6 of 20" in caplog.text
    assert "Resumed at epoch 6 of 20" in resumed.report_


def test_only_a_resumed_fit_says_so_and_silently_unless_verbose(rows, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as context:
        _kill_after(context, 1)
        with pytest.raises(Killed):
            _classifier(tmp_path, max_epochs=3).fit(*rows)
    assert "Resumed at epoch 2 of 3" in _classifier(tmp_path, max_epochs=3).fit(*rows).report_
    assert capsys.readouterr().out == ""
    assert "Resumed" not in _classifier(tmp_path, max_epochs=3).fit(*rows).report_


@pytest.mark.parametrize("function", ["mkdir", "is_dir", "is_file"])
def test_a_checkpoint_directory_without_permissions_costs_a_warning_only(rows, tmp_path, monkeypatch, function):
    """As root, which tests may run as, no directory refuses: so the system's answer is imitated."""
    directory = tmp_path / "closed" / "fits"
    original = getattr(Path, function)

    def refuse(path, *arguments, **keywords):
        if path == directory or directory in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **keywords)

    expected = _classifier(max_epochs=3).fit(*rows).predict_proba(rows[0])
    monkeypatch.setattr(Path, function, refuse)
    with pytest.warns(FitWarning, match="closed.*Permission denied"):
        classifier = _classifier(directory, max_epochs=3).fit(*rows)
    np.testing.assert_array_equal(classifier.predict_proba(rows[0]), expected)


def test_a_checkpoint_that_cannot_be_deleted_costs_a_warning_only(rows, tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.warns(FitWarning, match="cannot be deleted .*Permission denied"):
        classifier = _classifier(tmp_path, max_epochs=2).fit(*rows)
    assert classifier.n_epochs_ == 2


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


def _fields(**changed):
    """A change of the progress that is stored."""

    def tamper(recipe, context):
        stored = {**dataclasses.asdict(recipe.progress), **changed}
        context.setattr("skembed.finetune.checkpoint.asdict", lambda progress: stored)

    return tamper


def _weights(change):
    """A change of the best weights that are stored."""

    def tamper(recipe, context=None):
        recipe.best_state = {name: value.clone() for name, value in recipe.best_state.items()}
        change(recipe.best_state)

    return tamper


_TAMPERED = {
    "epoch too large": _fields(epoch=10**9),
    "epoch no number": _fields(epoch="1"),
    "negative epoch": _fields(epoch=-1),
    "no such stage": _fields(stage=99),
    "negative stage": _fields(stage=-1),
    "attempt": _fields(attempt=2),
    "stale": _fields(stale=1000),
    "round": _fields(round=None),
    "path of three": _fields(path=[(0, 0, 1)]),
    "path of no stage": _fields(path=[(7, 0, 1, 0)]),
    "path no list": _fields(path="all of it"),
    "history too long": _fields(history=[{}] * 7),
    "history of nothing": _fields(history=[{}]),
    "ended": _fields(ended=1),
    "other shape": _weights(lambda state: state.update({"head.linear.bias": torch.zeros(9)})),
    "other type": _weights(lambda state: state.update({"head.mean": state["head.mean"].double()})),
    "weight gone": _weights(lambda state: state.pop("head.scale")),
    "unknown weight": _weights(lambda state: state.update({"head.other": torch.zeros(1)})),
}


def _short(directory=None, **parameters):
    return _classifier(directory, max_epochs=6, strategy=Progressive(stage_epochs=2), **parameters)


def _fits_like_a_new_one(rows, tmp_path):
    (file,) = tmp_path.iterdir()
    with pytest.warns(FitWarning, match="cannot be read") as caught:
        fitted = _short(tmp_path).fit(*rows)
    assert len(caught) == 1
    assert str(file) in str(caught[0].message)
    assert list(tmp_path.iterdir()) == []
    return fitted.predict_proba(rows[0])


@pytest.fixture(scope="module")
def expected(rows):
    return _short().fit(*rows).predict_proba(rows[0])


@pytest.mark.parametrize("tamper", _TAMPERED.values(), ids=_TAMPERED)
def test_a_sealed_checkpoint_with_wrong_fields_counts_as_absent(rows, expected, tmp_path, monkeypatch, tamper):
    original = Checkpoint.save

    def save(self, recipe, *arguments):
        if len(recipe.progress.history) == 3:
            tamper(recipe, context)
            original(self, recipe, *arguments)
            raise Killed
        original(self, recipe, *arguments)

    with monkeypatch.context() as context:
        context.setattr(Checkpoint, "save", save)
        with pytest.raises(Killed):
            _short(tmp_path).fit(*rows)
    np.testing.assert_array_equal(_fits_like_a_new_one(rows, tmp_path), expected)


def _edit_progress(file, change):
    with safe_open(file, framework="pt") as opened:
        metadata, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, file, metadata=metadata)


def _no_best(metadata, tensors):
    metadata["progress"] = json.dumps({k: v for k, v in json.loads(metadata["progress"]).items() if k != "best"})


@pytest.mark.parametrize(
    "change",
    [
        _no_best,
        lambda metadata, tensors: metadata.update(progress="[]"),
        lambda metadata, tensors: metadata.update(sha256="0" * 64),
        lambda metadata, tensors: metadata.clear(),
        lambda metadata, tensors: tensors["now/head.linear.bias"].add_(1),
        lambda metadata, tensors: tensors["now/head.linear.bias"].fill_(float("nan")),
    ],
    ids=["field gone", "no record", "another seal", "no seal", "weights changed", "NaN"],
)
def test_an_edited_checkpoint_counts_as_absent(rows, expected, tmp_path, monkeypatch, change):
    with monkeypatch.context() as context:
        _kill_after(context, 3)
        with pytest.raises(Killed):
            _short(tmp_path).fit(*rows)
    (file,) = tmp_path.iterdir()
    _edit_progress(file, change)
    np.testing.assert_array_equal(_fits_like_a_new_one(rows, tmp_path), expected)


def test_a_checkpoint_of_another_fit_counts_as_absent(rows, expected, tmp_path, monkeypatch):
    names = []
    for settings in ({"learning_rate": 2e-2}, {}):
        with monkeypatch.context() as context:
            _kill_after(context, 3)
            with pytest.raises(Killed):
                _short(tmp_path, **settings).fit(*rows)
        names += [path for path in tmp_path.iterdir() if path not in names]
    names[0].replace(names[1])
    np.testing.assert_array_equal(_fits_like_a_new_one(rows, tmp_path), expected)


def test_weights_that_diverged_are_not_stored(rows, tmp_path, monkeypatch):
    """The fit resumes from the epoch before, as it would after any other kill."""
    original = Checkpoint.save

    def save(self, recipe, *arguments):
        if len(recipe.progress.history) == 3:
            _weights(lambda state: state["head.linear.bias"].fill_(float("nan")))(recipe)
            original(self, recipe, *arguments)
            raise Killed
        original(self, recipe, *arguments)

    with monkeypatch.context() as context:
        context.setattr(Checkpoint, "save", save)
        with pytest.raises(Killed):
            _classifier(tmp_path).fit(*rows)
    with safe_open(next(tmp_path.iterdir()), framework="pt") as file:
        assert len(json.loads(file.metadata()["progress"])["history"]) == 2


@pytest.mark.skipif(os.name != "posix", reason="permissions and links as POSIX has them")
def test_checkpoints_are_private_and_follow_no_links(rows, tmp_path, monkeypatch):
    directory = tmp_path / "new" / "checkpoints"
    before = os.umask(0)
    try:
        with monkeypatch.context() as context:
            _kill_after(context, 1)
            with pytest.raises(Killed):
                _classifier(directory).fit(*rows)
    finally:
        os.umask(before)
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == directory.parent.stat().st_mode & 0o777 == 0o700
    # A link that somebody planted under the draft's name of old.
    (tmp_path / "victim").write_text("precious")
    file.with_name(f"{file.name}.{os.getpid()}").symlink_to(tmp_path / "victim")
    _classifier(directory).fit(*rows)
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_full_disk_costs_the_checkpoint_and_not_the_fit(rows, tmp_path, monkeypatch):
    def full(*_arguments, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skembed.finetune.checkpoint.save_file", full)
    with pytest.warns(FitWarning, match="No checkpoint could be written"):
        fitted = _classifier(tmp_path).fit(*rows)
    assert fitted.n_epochs_ > 3
    assert list(tmp_path.iterdir()) == []


#: Imports once and forks the fits, of which the parent kills two after so many lines.
SCRIPT = """
import os, signal, sys, time
import numpy as np
from skembed import Augmentation, FineTuneClassifier, Optimization, Progressive
from skembed.testing import ArrayEmbedder
from tests.finetune import tuning

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 4)).astype(np.float32)
y = (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)

def fit(directory):
    classifier = FineTuneClassifier(
        ArrayEmbedder(precision="float32"), strategy="full", learning_rate=1e-2, max_epochs=30,
        optimization=Optimization(backbone_factor=1.0),
        patience=30, random_state=0, checkpoint_dir=directory, verbose=1,
    ).fit(X, y)
    print("digest", classifier.predict_proba(X).tobytes().hex()[:64], classifier.n_epochs_, flush=True)

def run(directory, n_lines=None):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        try:
            fit(directory)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        if n_lines is not None:
            for _ in range(n_lines):
                said.readline()
            time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
        lines = said.read().splitlines()
    return lines, os.WIFSIGNALED(os.waitpid(child, 0)[1])

expected, _ = run(None)
killed = [run(sys.argv[1], n_lines)[1] for n_lines in (3, 12)]
lines, _ = run(sys.argv[1])
print(killed, lines[-1] == expected[-1], expected[-1].split()[0], sum("] epoch " in line for line in lines))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_sigkill(tmp_path):
    """The real thing, in a process of its own, at whatever moment it comes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SKEMBED_CACHE": "none"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    killed, is_same, digest, n_epochs = done.stdout.rsplit(" ", 3)
    assert (killed, is_same, digest) == ("[True, True]", "True", "digest"), done.stderr
    assert int(n_epochs) < 30 - 9, "epochs that were done before were done again"
