"""Other ways to fine-tune: a plain loop, skorch with its Freezer and Unfreezer, and the transformers Trainer."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers import peer

__all__ = ["frozen_each_epoch", "skorch_unfreezing", "top_each_epoch", "trainer_full"]

RATE = 1e-3


class MeanPooled(nn.Module):
    """A transformers encoder, the mean of its real positions, and a linear head."""

    def __init__(self, directory: Path, n_classes: int):
        super().__init__()
        from transformers import AutoModel

        self.encoder: Any = AutoModel.from_pretrained(directory)
        self.head = nn.Linear(self.encoder.config.hidden_size, n_classes)

    def forward(self, input_ids, attention_mask):
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        return self.head(nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))


def frozen_each_epoch(embed, n_samples: int, width: int, y: np.ndarray, *, epochs: int, batch_size: int = 32) -> float:
    """A head on a frozen backbone that is run in every epoch, as training loops do; returns the last epoch's loss.

    Parameters
    ----------
    embed : callable
        Takes positions of samples and returns their features, of shape (batch, width), without gradients.
    n_samples, width : int
        Of the data and of the features.
    y : ndarray of shape (n_samples,), int64
        Classes.
    epochs, batch_size : int
        Of the training.
    """
    torch.manual_seed(0)
    head = nn.Linear(width, int(y.max()) + 1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE)
    targets, rng, mean = torch.from_numpy(y), np.random.default_rng(0), 0.0
    for _ in range(epochs):
        losses = []
        order = rng.permutation(n_samples)
        for start in range(0, n_samples, batch_size):
            batch = order[start : start + batch_size]
            with torch.no_grad():
                features = embed(batch)
            loss = nn.functional.cross_entropy(head(features), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        mean = float(np.mean(losses))
    return mean


def top_each_epoch(
    directory: Path, texts: Sequence[str], y: np.ndarray, *, n_unfrozen: int, epochs: int, batch_size: int = 32
) -> float:
    """The highest layers and a head, the frozen ones run in every epoch; returns the last epoch's loss.

    Parameters
    ----------
    directory : path
        Of a network of BERT's kind and its tokenizer.
    texts : sequence of str
    y : ndarray of shape (n_texts,), int64
        Classes.
    n_unfrozen : int
        Layers that train, at a tenth of the head's rate. As with us only these drop anything.
    epochs, batch_size : int
        Of the training.
    """
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer, model = AutoTokenizer.from_pretrained(directory), MeanPooled(directory, int(y.max()) + 1)
    model.encoder.eval().requires_grad_(False)
    top = model.encoder.encoder.layer[-n_unfrozen:].train().requires_grad_(True)
    groups = [{"params": model.head.parameters(), "lr": RATE}, {"params": top.parameters(), "lr": RATE / 10}]
    optimizer = torch.optim.AdamW(groups)
    trained = [value for group in optimizer.param_groups for value in group["params"]]
    targets, rng, mean = torch.from_numpy(y), np.random.default_rng(0), 0.0
    for _ in range(epochs):
        losses = []
        order = rng.permutation(len(texts))
        for start in range(0, len(texts), batch_size):
            batch = order[start : start + batch_size]
            inputs = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
            loss = nn.functional.cross_entropy(
                model(inputs["input_ids"], inputs["attention_mask"]), targets[torch.from_numpy(batch)]
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        mean = float(np.mean(losses))
    return mean


def skorch_unfreezing(
    directory: Path, texts: Sequence[str], y: np.ndarray, valid: tuple[Sequence[str], np.ndarray], *, epochs: int
) -> Any:
    """skorch: the head first, then one layer more every few epochs; early stopping, and the best epoch restored."""
    peer("skorch")
    from skorch import NeuralNetClassifier
    from skorch.callbacks import (  # noqa: F401
        Checkpoint,
        EarlyStopping,
        Freezer,
        LoadInitState,
        LRScheduler,
        TrainEndCheckpoint,
        Unfreezer,
    )
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)

    def encode(some: Sequence[str]) -> dict[str, np.ndarray]:
        found = tokenizer(list(some), padding=True, truncation=True, return_tensors="np")
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    n_layers = 6
    every = max(1, epochs // (n_layers + 1))
    unfreezers = [
        Unfreezer(f"encoder.encoder.layer.{layer}.*", at=1 + every * (n_layers - layer)) for layer in range(n_layers)
    ]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint = Checkpoint(monitor="valid_loss_best", dirname=place, load_best=True, f_optimizer=None)
        net = NeuralNetClassifier(
            MeanPooled,
            module__directory=directory,
            module__n_classes=int(y.max()) + 1,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW,
            optimizer__param_groups=[("encoder*", {"lr": RATE / 10})],
            lr=RATE * 10,  # its head begins from nothing
            max_epochs=epochs,
            batch_size=32,
            iterator_train__shuffle=True,
            train_split=predefined_split(Dataset(encode(valid[0]), valid[1])),
            callbacks=[
                ("freeze", Freezer("encoder*")),
                *[(f"unfreeze{i}", unfreezer) for i, unfreezer in enumerate(unfreezers)],
                ("schedule", LRScheduler("CosineAnnealingLR", T_max=epochs)),
                ("stop", EarlyStopping(patience=10)),
                ("best", checkpoint),
            ],
            verbose=0,
        )
        net.fit(encode(texts), y)
    return lambda some: net.predict(encode(some))


def trainer_full(
    directory: Path, texts: Sequence[str], y: np.ndarray, valid: tuple[Sequence[str], np.ndarray], *, epochs: int
) -> Any:
    """The transformers Trainer: the whole network, judged in each epoch, the best one restored."""
    peer("accelerate")
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(directory)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = MeanPooled(directory, int(y.max()) + 1)

        def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None):
            logits = self.inner(input_ids, attention_mask) * 10  # rows of length one: without it the head is too slow
            loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    def encode(some, labels=None):
        rows = [tokenizer(text, truncation=True) for text in some]
        return rows if labels is None else [{**row, "labels": int(c)} for row, c in zip(rows, labels, strict=True)]

    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            model=Classifier(),
            args=TrainingArguments(
                place,
                num_train_epochs=epochs,
                per_device_train_batch_size=32,
                per_device_eval_batch_size=64,
                learning_rate=RATE / 10,
                eval_strategy="epoch",
                save_strategy="epoch",
                save_total_limit=1,
                load_best_model_at_end=True,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                logging_strategy="no",
                save_only_model=True,
            ),
            train_dataset=encode(texts, y),
            eval_dataset=encode(valid[0], valid[1]),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        # Its directory goes away, so what is predicted later is kept here.
        model = trainer.model.eval()

    def predict(some: Sequence[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(some), 64):
            batch = tokenizer(list(some[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                parts.append(model(batch["input_ids"], batch["attention_mask"])["logits"].argmax(1).numpy())
        return np.concatenate(parts)

    return predict
