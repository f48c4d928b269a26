"""Type checkers find the package in an editable install, and its public methods have return types."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC_MODULES = ["skembed", "skembed.augment", "skembed.diagnosis", "skembed.displays", "skembed.measures"]
PUBLIC_MODULES += ["skembed.selection", "skembed.testing"]

SCRIPT = """\
from pathlib import Path

from skembed import AudioEmbedder, BackboneSelector, FineTuneClassifier, FineTuneRegressor, ImageEmbedder, TextEmbedder
from skembed.displays import EmbeddingMapDisplay
from skembed.selection import rank_backbones

texts, labels = ["an invoice", "a parcel"] * 10, ["money", "parcel"] * 10
images = [Path("a.jpg"), Path("b.jpg")]
text, image, audio = TextEmbedder(), ImageEmbedder(), AudioEmbedder()
reveal_type(text.fit(texts))
reveal_type(text.fit(texts).transform(texts))
reveal_type(image.fit_transform(images))
reveal_type(audio.transform(["a.wav"]))
classifier = FineTuneClassifier(text).fit(texts, labels)
reveal_type(classifier)
reveal_type(classifier.predict(texts))
reveal_type(classifier.predict_proba(texts))
reveal_type(classifier.score(texts, labels))
reveal_type(classifier.fit_transform(texts, labels))
reveal_type(FineTuneRegressor(text).fit(texts, [0.0, 1.0] * 10))
reveal_type(BackboneSelector([text]).fit(texts, labels))
reveal_type(EmbeddingMapDisplay.from_embedder(text, texts, labels))
"""
ARRAY = "numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]]"
REVEALED = [
    "skembed.embedders.text.TextEmbedder", ARRAY, ARRAY, ARRAY,
    "skembed.finetune.classifier.FineTuneClassifier", ARRAY, ARRAY, "float", ARRAY,
    "skembed.finetune.regressor.FineTuneRegressor", "skembed.selection.selector.BackboneSelector",
    "skembed.displays.embedding_map.EmbeddingMapDisplay",
]  # fmt: skip

#: What the user's script does not need is not analyzed, which would take a minute.
MYPY_SETTINGS = """\
[mypy]
ignore_missing_imports = true
[mypy-huggingface_hub.*,peft.*,safetensors.*,joblib.*]
follow_imports = skip
[mypy-torch.*,torchvision.*,torchaudio.*,timm.*,transformers.*,PIL.*,narwhals.*,tqdm.*,matplotlib.*]
follow_imports = skip
"""


@pytest.fixture
def environment(tmp_path):
    """Python of a new environment with an editable install of this checkout, made by its build backend."""
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["build-backend"]
    call = f"import sys, {backend}; {backend}.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", call, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    home = tmp_path / "environment"
    venv.EnvBuilder(symlinks=os.name != "nt").create(home)
    names = {"base": str(home), "platbase": str(home)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=names))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site_packages)
    # The packages that skembed needs; their own editable installs are not followed from there.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return Path(sysconfig.get_path("scripts", "venv", vars=names)) / Path(sys.executable).name


def test_mypy_sees_the_types_of_an_editable_install(environment, tmp_path):
    pytest.importorskip("mypy")
    script, settings = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(SCRIPT, encoding="utf-8")
    settings.write_text(MYPY_SETTINGS, encoding="utf-8")
    command = ["--python-executable", environment, "--config-file", settings, "--cache-dir", os.devnull, script]
    outside = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    output = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, command)], cwd=tmp_path, env=outside, capture_output=True, text=True
    ).stdout
    notes = [line.split("Revealed type is ")[1].strip('"') for line in output.splitlines() if "Revealed" in line]
    assert notes == REVEALED, output


def _public_callables():
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                for home in value.__mro__:
                    if home.__module__.startswith("skembed"):
                        methods = {key: member for key, member in vars(home).items() if not key.startswith("_")}
                        yield from ((f"{home.__qualname__}.{key}", member) for key, member in methods.items())
            elif callable(value):
                yield f"{module_name}.{name}", value


def test_public_functions_and_methods_have_return_types():
    untyped = set()
    for name, member in _public_callables():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        function = inspect.unwrap(function) if callable(function) else None
        if inspect.isfunction(function) and "return" not in function.__annotations__:
            untyped.add(name)
    assert not untyped
