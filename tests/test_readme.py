"""The README's examples run as they stand, and its figures are those of the benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import skembed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.bundled
def test_the_examples_run_and_their_data_are_sound(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = skembed.get_config()["cache"]
    names: dict = {}
    skembed.set_config(cache="memory")  # the default of users
    try:
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
            exec(compile(block, "README.md", "exec"), names)
    finally:
        skembed.set_config(cache=before)
    words, embeddings = map(float, re.findall(r"(?:TfidfVectorizer|TextEmbedder): (\S+)", capsys.readouterr().out))
    assert embeddings > words + 0.05
    assert len(set(names["texts"])) == len(names["texts"]) == len(names["labels"])
    assert names["advice"].findings == ()
    assert names["search"].best_score_ > 0.85
    assert names["classifier"].score(names["X_test"], names["y_test"]) > 0.9


def test_the_rows_on_speed_are_rows_of_the_benchmarks():
    """All are of the first machine."""
    section = README.partition("## Speed")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|.*x \|$", section, re.MULTILINE)
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 6
    assert [row for row in rows if not any(line.startswith(row) and line.endswith(" 1 |") for line in table)] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 180
