"""That the benchmarks run; no times. Not part of the suite: `pytest benchmarks/test_smoke.py`."""

from __future__ import annotations

import json

import pytest

from benchmarks import embed, images, methods, recordings, report, texts
from benchmarks.common import document


@pytest.mark.parametrize("module", [texts, images, recordings])
def test_every_goal_names_works_and_ways(module):
    rows = [
        {"work": work.name, "way": way.name, "seconds": 1.0, "cosine_mean": 1.0, "cosine_min": 1.0}
        for work, _ in module.works(2)
        for way in work.ways
    ]
    assert {goal.value({"results": rows}) for goal in module.GOALS} == {1.0}


@pytest.mark.parametrize("memory", [[], ["--memory"]])
def test_texts_are_embedded_and_reported(tmp_path, capsys, memory):
    path = tmp_path / "embed.json"
    embed.main(["--only", "texts", "--samples", "8", "--repeats", "1", "--json", str(path), *memory])
    written = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == written
    assert all((row["memory_mb"] is not None) == bool(memory) for row in written["results"])
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
    readme = "before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n"
    assert report.rewritten(readme, "new") == readme.replace("old", "new")
    with pytest.raises(SystemExit, match="no <!-- benchmarks -->"):
        report.rewritten("no markers", "new")


def test_the_newest_measurement_counts():
    old, new = ({**document("cache", results={"get, disk, rows/s": speed})} for speed in (1.0, 60_000.0))
    old["measured"] = "2000-01-01T00:00:00+00:00"
    assert "| 60,000 rows/s |" in report.table([new, old])
