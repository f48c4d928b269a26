"""A fit in words, from progress that is written by hand."""

from __future__ import annotations

import pytest

from skembed.finetune.recipe import Progress
from skembed.finetune.report import describe_epoch, describe_fit
from skembed.finetune.tasks import Scores
from skembed.strategies import Progressive

STAGES = Progressive().stages(depth=3, max_epochs=30)
PROBE = Scores(0.5, 0.8)


def _record(stage, train_loss, valid_loss=None, valid_score=None, best=False, attempt=1, seconds=1.0, epoch=1):
    return {
        "epoch": epoch, "stage": stage, "attempt": attempt, "train_loss": train_loss, "valid_loss": valid_loss,
        "valid_score": valid_score, "best": best, "seconds": seconds,
        "max_epochs": 20, "stage_number": 2, "n_stages": 3,
    }  # fmt: skip


def _describe(progress, kept, **parameters):
    settings = {"n_train": 80, "n_held_out": 20, "score_name": "accuracy", "notes": (), **parameters}
    return describe_fit(progress, STAGES, kept=kept, **settings).splitlines()


def test_a_path_through_stages():
    history = [
        _record("head", 0.6, 0.45, 0.82, best=True, seconds=0.5),
        _record("head", 0.5, 0.46, 0.9, seconds=0.75),
        _record("top block", 0.4, 0.6, 0.7, seconds=2.0),
        _record("top block", 0.4, 0.40001, 0.85, best=True, attempt=2, seconds=2.0),
        _record("top block", 0.3, 0.35, 0.88, best=True, attempt=2, seconds=2.5),
        _record("top 2 blocks", 0.2, 0.7, 0.6),
    ]
    progress = Progress(
        Scores(0.35, 0.88), PROBE, path=[(0, 0, 1, 0), (1, 1, 2, 2)], history=history, ended="max_epochs was reached"
    )
    assert _describe(progress, "fine-tuned", notes=["One note.", "Another."]) == [
        "Trained on 80 samples, judged on 20.",
        "Linear probe on frozen features: accuracy 0.8000, loss 0.5000.",
        "head: 2 epochs, 1.2 s, best accuracy 0.8200, loss 0.4500.",
        "top block: 1 epoch, 2.0 s, no gain; the best weights were restored.",
        "top block again, with stronger regularization: 2 epochs, 4.5 s, best accuracy 0.8800, loss 0.3500.",
        "top 2 blocks: 1 epoch, 1.0 s, no gain; the best weights were restored.",
        "Ended: max_epochs was reached.",
        "Kept: top block, epoch 2 of that stage, accuracy 0.8800, loss 0.3500. "
        "The linear probe has accuracy 0.8000, loss 0.5000.",
        "One note.",
        "Another.",
    ]


def test_a_round_is_no_stage():
    """Two rounds of all blocks share a line, so that the second epoch of the second is the fifth of them."""
    history = [_record("all blocks", 0.5, 0.4, 0.9, best=True, epoch=i + 1) for i in range(5)]
    progress = Progress(Scores(0.4, 0.9), PROBE, path=[(3, 0, 3, 3), (3, 0, 2, 4)], history=history)
    lines = _describe(progress, "fine-tuned")
    assert lines[2].startswith("all blocks: 5 epochs")
    assert "epoch 5 of" in lines[-1]


def test_the_probe_is_kept():
    progress = Progress(PROBE, PROBE, history=[_record("head", 0.6, 0.6, 0.7)], ended="head: no gain")
    lines = _describe(progress, "probe", score_name="f1_macro")
    assert lines[1] == "Linear probe on frozen features: f1_macro 0.8000, loss 0.5000."
    assert lines[-2:] == [
        "Ended: head: no gain.",
        "No epoch beat the linear probe on the held-out samples, so the probe was kept.",
    ]


@pytest.mark.parametrize("n_held_out", [0, 20])
def test_nothing_was_trained(n_held_out):
    lines = _describe(Progress(PROBE, PROBE), "probe", n_held_out=n_held_out)
    assert lines[-1] == "Nothing was trained, so the linear probe was kept."
    assert any("Linear probe on frozen" in line for line in lines) == bool(n_held_out)


def test_nothing_was_held_out():
    nothing = Scores(float("nan"), float("nan"))
    history = [_record("head", 0.6, best=True), _record("head", 0.4, best=True)]
    lines = _describe(Progress(nothing, nothing, path=[(0, 0, 2, 0)], history=history), "fine-tuned", n_held_out=0)
    assert lines == [
        "Trained on 80 samples, judged on 0.",
        "head: 2 epochs, 2.0 s, training loss 0.4000.",
        "Kept: the last epoch. No samples were held out, so its score is unknown.",
    ]
    assert "nan" not in "".join(lines)


def test_an_epoch_in_a_line():
    record = _record("top block", 0.5, 0.4, 0.9, seconds=1.26, epoch=12)
    start = "epoch 12 of at most 20, top block (stage 2 of 3): training loss 0.5000, held-out loss 0.4000, score 0.9000"
    time = "1.3 s, 1:02:05 elapsed, at most about 0:10 left"
    assert describe_epoch(record, 3725.0) == f"{start}; {time}"
    assert describe_epoch({**record, "best": True}, 3725.0) == f"{start}, best so far; {time}"


def test_an_epoch_that_nothing_judged():
    line = describe_epoch(_record("head", 0.5, best=True, epoch=20), 61.0)
    assert line == (
        "epoch 20 of at most 20, head (stage 2 of 3): training loss 0.5000; "
        "1.0 s, 1:01 elapsed, at most about 0:00 left"
    )
