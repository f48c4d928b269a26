"""Classify your own texts: a CSV or Parquet file with a column of texts and a column of classes.

python examples/text_column.py FILE [--text text] [--label label] [--backbone NAME]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from common import require_classes, score, score_embeddings, table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skembed import TextEmbedder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--text", help="column of texts; the first column if not given")
    parser.add_argument("--label", help="column of classes; the last column if not given")
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    read = pd.read_parquet if arguments.file.suffix == ".parquet" else pd.read_csv
    frame = read(arguments.file)
    text, label = arguments.text or frame.columns[0], arguments.label or frame.columns[-1]
    missing = [column for column in (text, label) if column not in frame]
    if missing or text == label:
        raise SystemExit(f"Give --text and --label from the columns {list(frame.columns)}.")
    frame = frame.dropna(subset=[text, label])
    require_classes(frame[label])
    print(f"{len(frame)} texts of {frame[label].nunique()} classes; text={text!r}, label={label!r}")
    baseline = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=500))
    embedder = TextEmbedder(arguments.backbone, verbose=True)
    # Not standardized: MiniLM's rows have unit length, and 2,743 one-line descriptions of 12 topics gave an accuracy of
    # .819 as they are and .806 standardized (five folds, three times).
    model = LogisticRegression(max_iter=500)
    results = [
        score("TF-IDF", baseline, frame[text], frame[label]),
        score_embeddings("TextEmbedder", embedder, frame[text], frame[label], model=model),
    ]
    print(table(results))


if __name__ == "__main__":
    main()
