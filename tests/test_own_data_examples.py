"""The examples that read a user's own data: refusals in one sentence, and a saved model that predicts."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import soundfile
from PIL import Image

from skembed import ImageEmbedder
from tests.backbones import tiny

pd = pytest.importorskip("pandas")

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = {"image_folder": ".png", "audio_folder": ".wav"}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Return a function that runs an example in an empty folder: exit code, output and errors."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        try:
            importlib.import_module(name).main()
            code = 0
        except SystemExit as left:
            code = left.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refusal(run):
    """Return a function that runs an example which must fail as argparse does, and gives its message."""

    def refusal(name: str, *arguments) -> str:
        code, _, errors = run(name, *arguments)
        assert code == 2
        usage, _, message = errors.rpartition(f"{name}.py: error: ")
        # On a slow machine a progress bar may stand before it.
        assert "usage: " in usage
        return message.strip()

    return refusal


def write(path: Path, columns: dict, **options) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False, **options)
    return path


def texts(n: int, *words: str) -> list[str]:
    return [f"the text number {i} is {words[i % len(words)]}" for i in range(n)]


def labelled(n: int = 20) -> dict[str, list[str]]:
    return {"text": texts(n, "bad", "good"), "label": ["neg", "pos"] * (n // 2)}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Return a function that gives the directory of a tiny network, built once."""
    built: dict[str, Path] = {}

    def network(family: str) -> Path:
        if family not in built:
            built[family] = tmp_path_factory.mktemp(family)
            tiny.BUILDERS[family](built[family])
        return built[family]

    return network


# -- tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"text,label\n", "no rows"),
        ("one.csv", b"text\na\nb\n", "one column only, 'text'"),
        ("latin.csv", "text,label\ncaf\u00e9,a\n".encode("latin-1"), "UTF-8"),
        ("commas.csv", b"text,label\na, b,pos\nc,neg\n", "double quotes"),
        ("short.csv", b"text,label\na, b,pos\nc, d,neg\n", "double quotes"),
        ("broken.parquet", b"PAR1", "cannot be read as a table"),
        ("table.xlsx", b"PK", "save the table as a CSV"),
    ],
)
def test_a_file_that_is_no_table_of_texts_is_refused(refusal, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    message = refusal("text_column", name)
    assert words in message
    assert f"'{name}'" in message


def test_a_missing_table_and_a_folder_are_refused(refusal, tmp_path):
    assert refusal("text_column", "nothing.csv").startswith("'nothing.csv' does not exist")
    assert refusal("text_column", tmp_path).startswith(f"'{tmp_path}' is a folder")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": texts(20, "a"), "label": ["pos"] * 20}, "all 20 samples are of 'pos'"),
        ({"text": texts(20, "a"), "label": ["pos"] * 10 + ["neg"] * 9 + ["odd"]}, "'odd' (1)"),
        ({"text": texts(20, "a"), "price": np.arange(20)}, "column 'price' has 20 different numbers"),
        ({"text": texts(20, "a"), "id": np.arange(20), "word": texts(20, "b")}, "give --label, one of 'id', 'word'"),
        ({"text": ["", " "] * 10, "label": ["pos", "neg"] * 10}, "no row has both"),
    ],
)
def test_columns_that_hold_no_classes_are_refused(refusal, tmp_path, columns, words):
    assert words in refusal("text_column", write(tmp_path / "texts.csv", columns))


def test_a_column_that_is_not_there_is_named(refusal, tmp_path):
    path = write(tmp_path / "texts.csv", labelled())
    assert "--label 'topic' is not a column" in refusal("text_column", path, "--label", "topic")
    assert "both name 'text'" in refusal("text_column", path, "--label", "text", "--text", "text")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(refusal, tmp_path):
    path = write(tmp_path / "texts.csv", labelled())
    assert "no/such' does not exist" in refusal("text_column", path, "--save", "no/such/model.joblib")
    assert "is a folder" in refusal("text_column", path, "--save", tmp_path)


def test_an_unknown_backbone_is_refused_without_a_traceback(refusal, tmp_path):
    assert "no-such-backbone" in refusal(
        "text_column", write(tmp_path / "texts.csv", labelled()), "--backbone", "./no-such-backbone"
    )


@pytest.mark.parametrize(
    ("columns", "options", "suffix"),
    [
        ({"label": ["neg", "pos"] * 10, "text": texts(20, "bad", "good")}, {}, ".csv"),
        ({"mood": ["neg", "pos"] * 10, "note": texts(20, "bad", "good")}, {}, ".csv"),
        (labelled() | {"id": range(20)}, {}, ".csv"),
        (labelled() | {"id": range(20)}, {"sep": "\t"}, ".tsv"),
        (labelled(), {"sep": "\t"}, ".csv"),
        (labelled(), {"sep": ";", "encoding": "utf-8-sig"}, ".csv"),
        ({"text": texts(20, "bad", "good"), "stars": [1, 2] * 10}, {}, ".csv"),
        ({"text": texts(20, "bad", "good"), "label": ["NA", "None"] * 10}, {}, ".csv"),
    ],
    ids=["label first", "other names", "numbers last", "TSV", "tabs in a CSV", "semicolons", "integers", "NA"],
)
def test_columns_are_found_by_what_they_hold(monkeypatch, tmp_path, columns, options, suffix):
    monkeypatch.syspath_prepend(EXAMPLES)
    from text_table import read_texts

    data = read_texts(write(tmp_path / f"texts{suffix}", columns, **options), None, None)
    assert data.texts == texts(20, "bad", "good")
    name = next(name for name in columns if name in ("label", "mood", "stars"))
    assert data.label == name
    assert data.labels == list(map(str, columns[name]))


def test_rows_that_are_left_out_are_counted(monkeypatch, tmp_path, capsys):
    columns = labelled(20)
    columns["text"][3], columns["text"][5], columns["label"][7] = "", "  ", ""
    monkeypatch.syspath_prepend(EXAMPLES)
    from text_table import read_texts

    assert len(read_texts(write(tmp_path / "texts.csv", columns), None, None).texts) == 17
    out = capsys.readouterr().out
    assert out == "Left out: 3 of 20 rows, 2 without a text and 1 without a class; the first is row 4.\n"


# -- folders ----------------------------------------------------------------------------------------------


def sample(name: str, path: Path, bright: bool) -> None:
    """An image or a recording of one of two kinds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name) + sum(map(ord, path.name)))
    if name == "image_folder":
        Image.fromarray(rng.integers(0, 120, (16, 16, 3), dtype=np.uint8) + 120 * bright).save(path)
    else:
        time = np.arange(4000) / 16_000
        soundfile.write(path, 0.4 * np.sin((8000 if bright else 800) * time) + 0.01 * rng.normal(size=4000), 16_000)


def classes(name: str, folder: Path, n: int = 6) -> Path:
    for i in range(2 * n):
        sample(name, folder / ("dark", "light")[i % 2] / f"{i:02d}{FOLDERS[name]}", bool(i % 2))
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_classes_is_refused(refusal, tmp_path, name):
    kind = {"image_folder": "images", "audio_folder": "recordings"}[name]
    assert refusal(name, "nothing").startswith("'nothing' does not exist")
    (tmp_path / "bare").mkdir()
    assert "has no sub-folders" in refusal(name, "bare")
    (tmp_path / "bare" / "class").mkdir()
    assert f"the sub-folders of 'bare' have no {kind}" in refusal(name, "bare")
    sample(name, tmp_path / "flat" / f"0{FOLDERS[name]}", True)
    assert f"the {kind} in 'flat' are not in sub-folders" in refusal(name, "flat")
    assert "is a file" in refusal(name, f"flat/0{FOLDERS[name]}")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_splits_is_not_taken_for_classes(refusal, tmp_path, name):
    classes(name, tmp_path / "data" / "train")
    assert f"give a folder such as '{Path('data/train')}'" in refusal(name, "data")


@pytest.mark.parametrize("name", FOLDERS)
def test_classes_that_are_too_small_are_refused(refusal, tmp_path, name):
    for i in range(6):
        sample(name, tmp_path / "one" / "only" / f"{i}{FOLDERS[name]}", True)
    assert "all 6 samples are of 'only'" in refusal(name, "one")
    sample(name, tmp_path / "one" / "rare" / f"0{FOLDERS[name]}", True)
    assert "'rare' (1)" in refusal(name, "one")


def test_files_of_other_kinds_and_empty_folders_are_named(run, tmp_path):
    folder = classes("image_folder", tmp_path / "data", n=2)
    (folder / "dark" / "notes.txt").write_text("x")
    (folder / "dark" / "._00.png").write_bytes(b"x")
    (folder / "empty").mkdir()
    code, out, errors = run("image_folder", "data")
    assert out.splitlines() == [
        "Left out: 1 file that is not among the images (.txt).",
        f"Left out: the folder '{Path('data/empty')}', which has no images.",
    ]
    assert (code, "'dark' (2), 'light' (2)" in errors) == (2, True)


def test_a_damaged_image_is_named(refusal, tmp_path, network):
    folder = classes("image_folder", tmp_path / "data")
    (folder / "dark" / "00.png").write_bytes(b"no image")
    assert "00.png" in refusal("image_folder", "data", "--backbone", network("timm_resnet"))


# -- results ----------------------------------------------------------------------------------------------


def ending(out: str) -> tuple[float, float, list[str]]:
    """Accuracies of chance and of the embedder, and the arguments for predict.py that the example printed."""
    lines = out.splitlines()
    chance = next(line for line in lines if line.strip().startswith("none: the most frequent class"))
    embedder = next(line for line in lines if "Embedder " in line)
    return float(chance.split()[-3]), float(embedder.split()[-3]), ending_command(out)


def ending_command(out: str) -> list[str]:
    """Arguments of the command that the example printed last, after a look at what it runs."""
    python, script, *arguments = shlex.split(out.splitlines()[-1].removeprefix("Classify with it: "))
    assert (python, Path(script).resolve()) == ("python", EXAMPLES / "predict.py")
    return arguments


@pytest.mark.parametrize("name", FOLDERS)
def test_the_model_of_a_folder_predicts_by_the_command_that_is_printed(run, tmp_path, network, name):
    classes(name, tmp_path / "data 1")
    directory = network({"image_folder": "timm_resnet", "audio_folder": "wav2vec2"}[name])
    code, out, _ = run(name, "data 1", "--backbone", directory)
    assert code == 0
    chance, accuracy, arguments = ending(out)
    assert chance == pytest.approx(0.5, abs=0.1)
    assert accuracy > chance
    scaled = "StandardScaler" in str(joblib.load(arguments[0]))
    assert scaled == (name == "audio_folder")
    _, out, _ = run("predict", *arguments)
    assert out.splitlines()[-1].split()[-2] == "dark"


def test_the_model_of_a_table_predicts_by_the_command_that_is_printed(run, tmp_path, network):
    _, out, _ = run("text_column", write(tmp_path / "texts.csv", labelled(20)), "--backbone", network("bert"))
    assert "20 texts of 2 classes; text='text', label='label'" in out
    _, _, (model, text) = ending(out)
    _, out, _ = run("predict", model, text, "the text is bad")
    assert [line.split()[-2] in ("neg", "pos") for line in out.splitlines()] == [False, True, True]


def test_the_most_confused_pair_is_the_most_frequent_one(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from common import most_confused

    y, predictions = list("aaabbc"), list("bbaacc")
    assert most_confused(y, predictions) == "Most confused: 2 of 3 samples of 'a' are taken for 'b'."
    assert most_confused(y, y) == "All 6 held-out predictions are right."


def test_what_is_no_saved_model_is_refused(refusal, tmp_path):
    assert "does not exist" in refusal("predict", "nothing.joblib", "a")
    (tmp_path / "text.joblib").write_text("no model")
    assert "cannot be read as a model" in refusal("predict", "text.joblib", "a")


def test_a_sample_that_cannot_be_read_is_refused_when_predicting(run, refusal, tmp_path, network):
    classes("image_folder", tmp_path / "data")
    run("image_folder", "data", "--backbone", network("timm_resnet"))
    assert "nothing.png" in refusal("predict", "data.joblib", "nothing.png")


# -- the choice of a backbone -----------------------------------------------------------------------------


@pytest.fixture
def choice(monkeypatch, network):
    """The example with a tiny backbone of two layers."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import choose_backbone
    from sklearn.preprocessing import FunctionTransformer

    candidates = {
        "tiny": ImageEmbedder(network("timm_resnet")),
        "pixels": FunctionTransformer(choose_backbone.thumbnails, kw_args={"size": 8}),
    }
    monkeypatch.setattr(choose_backbone, "candidates", lambda image_size: candidates)
    monkeypatch.setattr(choose_backbone, "LAYERS", [1, -1])
    return choose_backbone


def test_the_choice_of_a_backbone_is_explained_and_saved(run, choice, tmp_path):
    pytest.importorskip("matplotlib")
    classes("image_folder", tmp_path / "data", n=8)
    code, out, _ = run("choose_backbone", "data", "--plot", "ranking.png")
    assert code == 0
    for column in (*choice.SCORES, "accuracy"):
        assert f"\n  {column} " in out
    assert "higher is better" in out
    assert "Always predicting the most frequent class: 0.500" in out
    assert (tmp_path / "ranking.png").is_file()
    _, out, _ = run("predict", *ending_command(out))
    assert out.splitlines()[-1].split()[-2] == "dark"


def test_the_choice_of_a_backbone_refuses_what_it_cannot_use(refusal, choice, tmp_path):
    assert refusal("choose_backbone", "nothing").startswith("'nothing' does not exist")
    folder = classes("image_folder", tmp_path / "data")
    assert "no/such' does not exist" in refusal("choose_backbone", "data", "--plot", "no/such/ranking.png")
    (folder / "dark" / "00.png").write_bytes(b"no image")
    assert "00.png" in refusal("choose_backbone", "data")


# -- arguments of the other examples ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["augmentations", "diagnose", "displays", "fine_tune", "quickstart"])
def test_help_is_printed_and_nothing_is_written(run, tmp_path, name):
    pytest.importorskip("matplotlib")
    code, out, _ = run(name, "--help")
    assert (code, list(tmp_path.iterdir())) == (0, [])
    assert out.startswith(f"usage: {name}.py")


def test_arguments_out_of_range_are_refused(refusal, tmp_path):
    pytest.importorskip("matplotlib")
    assert "5; use a number from 20 to 1700" in refusal("fine_tune", 5)
    assert "invalid int value: 'many'" in refusal("fine_tune", "many")
    (tmp_path / "file").write_text("")
    assert "file" in refusal("displays", "file")
    assert "file" in refusal("augmentations", "file")
