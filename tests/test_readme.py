"""The README's examples run as they stand, one after the other, on data that the package itself finds sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import skembed

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.bundled
def test_the_examples_run_and_their_data_are_sound(tmp_path, monkeypatch):
    """Fails when texts come several times: the folds of the first example would share them."""
    monkeypatch.chdir(tmp_path)
    before = skembed.get_config()["cache"]
    names: dict = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
            exec(compile(block, str(README), "exec"), names)
    finally:
        skembed.set_config(cache=before)
    assert len(set(names["texts"])) == len(names["texts"]) == len(names["labels"])
    assert names["advice"].findings == ()
    assert names["search"].best_score_ > 0.9
    assert names["classifier"].predict(["where is my package?"]).tolist() == ["parcel"]
