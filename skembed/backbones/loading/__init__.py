"""Loading of networks by name.

registry.py   turns what a user passes as `backbone` into a spec
modality.py   refuses a network of another kind of sample
card.py       what is known of a network without loading it
load.py       loads networks once per process and shares them; trial.py runs a new one once
"""
