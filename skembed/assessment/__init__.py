"""Assessment of data and fits: measurements and rules behind advice and diagnosis.

evidence.py     measures samples and targets before training
rules.py        the table of rules from evidence to a strategy; wording.py fills its sentences
advice.py       `Advice`: strategy, settings, reasons and findings
coverage.py     words that a tokenizer does not know; training_cost.py times training on this machine
curves.py       findings from the losses of a fit; certainty.py their confidence intervals
data_quality.py label noise, leaks, imbalance, too few samples
forgetting.py   distance of weights and outputs from the pre-trained network
remedies.py     remedies in terms of the estimator's parameters
findings.py     `Finding`; diagnosis.py `Diagnosis`
"""
