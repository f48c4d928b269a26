"""That the benchmarks run; no times. Not part of the suite: `pytest benchmarks/test_smoke.py`."""

from __future__ import annotations

import json

import pytest

from benchmarks import embed, images, learning_curve, methods, recordings, report, selection, texts
from benchmarks.common import document


@pytest.mark.parametrize("module", [texts, images, recordings])
def test_every_goal_names_works_and_ways(module):
    rows = [
        {"work": work.name, "way": way.name, "seconds": 1.0, "cosine_mean": 1.0, "cosine_min": 1.0}
        for work, _ in module.works(2)
        for way in work.ways
    ]
    assert {goal.value({"results": rows}) for goal in module.GOALS} == {1.0}


@pytest.mark.parametrize("together", [[], ["--together"]])
def test_texts_are_embedded_and_reported(tmp_path, capsys, together):
    path = tmp_path / "embed.json"
    embed.main(["--only", "texts", "--samples", "8", "--repeats", "1", "--json", str(path), *together])
    written = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == written
    assert all((row["memory_mb"] is None) == bool(together) for row in written["results"])
    table = report.table([written])
    assert "sentence-transformers, float32" in table
    assert "GridSearchCV" not in table


def test_methods_are_fitted_and_written(tmp_path, capsys):
    path = tmp_path / "methods.json"
    few = ["--epochs", "1", "--train", "60", "--test", "50"]
    methods.main(["--only", "topics", "--ways", "head", "partial+lora", "--json", str(path), *few])
    head, lora = json.loads(path.read_text())["results"]["topics"]
    # Of 384 features, four square maps a layer and two of four times the width, at rank 8.
    assert (head["trained"], lora["trained"]) == (0, 2 * 8 * (4 * 2 * 384 + 2 * 5 * 384))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["benchmark"] == "methods"


def test_the_report_keeps_what_is_around_the_markers():
    text = "before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n"
    assert report.rewritten(text, "new") == text.replace("old", "new")
    with pytest.raises(SystemExit, match="no <!-- benchmarks -->"):
        report.rewritten("no markers", "new")


def test_cosines_are_one_sentence_and_goals_that_were_dropped_are_empty():
    ways = {"sentence-transformers, float32": (2.0, None), "skembed, auto": (1.0, 0.9985)}
    rows = [
        {
            "work": texts.SHORT,
            "way": way,
            "seconds": seconds,
            "cosine_mean": cosine,
            "cosine_min": cosine,
            "share_of_peak": 0.5,
        }
        for way, (seconds, cosine) in ways.items()
    ]
    table = report.table([document("embed", results=rows)])
    assert f"| {texts.SHORT}, precision auto | sentence-transformers, float32 | 2.0x | 50% | | | 1 |" in table
    assert table.count("cosine") == 3
    assert "the lowest mean cosine to float32 is 0.99850 and the lowest of a single sample 0.99850." in table
    assert f"Below its goal: {texts.SHORT}, precision auto: cosine, mean, 0.99850." in table


def test_the_newest_measurement_counts():
    old, new = ({**document("cache", results={"get, disk, rows/s": speed})} for speed in (1.0, 60_000.0))
    old["measured"] = "2000-01-01T00:00:00+00:00"
    assert "| 60,000 rows/s |" in report.table([new, old])


def test_a_learning_curve_is_measured_goes_on_and_is_reported(tmp_path, capsys):
    path = tmp_path / "curve.json"
    arguments = ["--only", "topics", "--sizes", "3", "5000", "--epochs", "1", "--json", str(path)]
    learning_curve.main([*arguments, "--strategies", "head", "telepathy", "--repeats", "1"])
    told = capsys.readouterr().out
    assert "strategy='telepathy' is left out" in told
    assert "5000 a class is left out" in told
    assert "topics, head, over all sizes: augmentation changed the accuracy by" in told
    assert "no difference can be told from chance" in told
    first = json.loads(path.read_text())["runs"]
    assert [run["augmented"] for run in first] == [False, True]
    assert path.with_suffix(".png").stat().st_size > 1000
    learning_curve.main([*arguments, "--strategies", "head", "--repeats", "2"])
    written = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == written
    assert written["runs"][:2] == first
    assert len(written["runs"]) == 4
    assert "| topics, head, augmented, over the learning curve: points of accuracy |" in report.table([written])


@pytest.mark.parametrize(("differences", "verdict"), [
    ([0.05, 0.06, 0.055], "it helps"), ([-0.05, -0.06, -0.055], "it does harm"), ([0.05, -0.04, 0.01], "no difference"),
    ([0.05], "no difference"), ([0.0, 0.0], "no difference"), ([0.05, 0.07], "no difference"),
])  # fmt: skip
def test_few_pairs_tell_little(differences, verdict):
    runs = [
        {"set": "topics", "strategy": "head", "size": 5, "repeat": i, "augmented": augmented, "accuracy": 0.5 + more}
        for i, difference in enumerate(differences)
        for augmented, more in ((False, 0.0), (True, difference))
    ]
    assert verdict in learning_curve.sentence(runs, "topics", "head", 5)
    with pytest.raises(LookupError):
        learning_curve.sentence(runs, "images", "head")


def test_scores_are_judged_by_the_accuracy_of_all_candidates(tmp_path, capsys):
    path = tmp_path / "selection.json"
    selection.main(["--only", "topics", "--samples", "800", "--json", str(path)])
    written = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == written
    found = written["results"]["topics"]
    assert len(found["candidates"]) >= 8
    assert all(-1 <= row["tau"] <= 1 and row["regret, points"] >= 0 for row in found["scores"])
    assert "Kendall's tau of LogME" in report.table([written])


def test_tau_and_regret_of_a_score_that_is_half_right():
    """Of three pairs two are in order; its choice is the second best by accuracy, and the best after fine-tuning."""
    seconds = {f"{name}_seconds": 0.5 for name in (*selection.FORETELLING, selection.PROBE)}
    lines = [
        {**dict.fromkeys(selection.FORETELLING, score), selection.PROBE: accuracy, "fine_tuned": tuned,
         "fine_tuned_seconds": 2.0, **seconds}
        for score, accuracy, tuned in [(0.1, 0.5, 0.6), (0.9, 0.7, 0.9), (0.5, 0.8, 0.7)]
    ]  # fmt: skip
    row = selection._judged(lines)[0]
    assert row["tau"] == pytest.approx(1 / 3)
    assert row["regret, points"] == pytest.approx(10)
    assert (row["times as fast"], row["tau, fine-tuned"], row["regret, fine-tuned, points"]) == (1, 1, 0)
    assert selection._fine_tuning_saved({"results": {"topics": {"candidates": lines}}}) == 4
