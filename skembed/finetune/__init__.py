"""Estimators that train a pre-trained backbone, from a frozen head to the whole network.

classifier.py, regressor.py   the public estimators; base.py, parameters.py and predicting.py are what they share
checks.py, validation.py      input and the held-out samples; y is checked in skembed.inputs
plan.py       the plan of a fit, derived once; fitting.py follows it: probe, recipe, guard, refit
record.py     results of a fit, for the report and the diagnosis
tasks.py      losses, scores and predictions of classes, labels and numbers
recipe.py     stages of unfreezing, and which epoch is kept (none: the probe); loop.py one epoch
network.py    a network with a head, some blocks of which train; groups.py learning rates
data.py       samples on their way into training; activations.py stores them; features.py sources of features
replay.py     activations of the frozen blocks, and the check that a network can be resumed behind them
checkpoint.py, restoring.py, snapshot.py, warm_start.py   states of a fit: to resume it, or to start the next one
tuned.py      the embedder with tuned weights; advised.py the estimator of an advice
report.py     the printed report; examine.py the diagnosis of a fit; callbacks.py scikit-learn's callbacks
learning_rate.py   the search for a rate; rate_budget.py bounds it, rate_display.py draws it
"""
