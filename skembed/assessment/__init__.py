"""Numbers in, findings out: what advice before a fit and diagnosis after it are made of.

evidence.py     measures samples and targets before training
rules.py        the table that leads from evidence to a strategy; wording.py fills its sentences
advice.py       `Advice`: strategy, settings, reasons and findings
coverage.py     words that a tokenizer does not know; training_cost.py times training on this machine
curves.py       what the losses of a fit show; certainty.py how sure that is
data_quality.py label noise, leaks, imbalance, too few samples
forgetting.py   how far weights and outputs went from the pre-trained network
remedies.py     what to do, in terms of the estimator's parameters
findings.py     `Finding`; diagnosis.py `Diagnosis`
"""
