"""Classify new samples with a model that another example has saved.

    python examples/predict.py MODEL SAMPLE [SAMPLE ...]

SAMPLE is an image file, a sound file or a text, whichever the model was trained on. A model's file can run code when
it is read: use only those that you saved yourself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import joblib
import pandas as pd
from own_data import InputError, clear_errors

from skembed import TextEmbedder


def read_model(path: Path):
    """Return the pipeline in a file."""
    if not path.is_file():
        raise InputError(f"the model '{path}' does not exist; image_folder.py, for one, writes such a file")
    try:
        model = joblib.load(path)
    except Exception as error:  # any, according to the bytes
        raise InputError(f"'{path}' cannot be read as a model ({type(error).__name__}: {error})") from error
    if not hasattr(model, "predict_proba"):
        raise InputError(f"'{path}' holds a {type(model).__name__}, not a classifier that an example has saved")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="file that an example has written, such as flowers.joblib")
    parser.add_argument("samples", nargs="+", metavar="sample", help="image file, sound file or text")
    arguments = parser.parse_args()
    with clear_errors(parser):
        model = read_model(arguments.model)
        reads_texts = isinstance(model[0], TextEmbedder)
        samples = arguments.samples if reads_texts else [Path(sample) for sample in arguments.samples]
        probabilities = model.predict_proba(samples)
    table = pd.DataFrame(
        {
            "sample": arguments.samples,
            "class": model.classes_[probabilities.argmax(axis=1)],
            "probability": probabilities.max(axis=1).round(3),
        }
    )
    print(table.to_string(index=False, max_colwidth=60))


if __name__ == "__main__":
    main()
