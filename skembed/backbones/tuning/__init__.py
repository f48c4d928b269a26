"""Methods: the parameters that train in the blocks of a strategy, one class per file.

method.py    the interface, and how a method is asked for by name
weights.py   the network's own tensors: Weights, BitFit, Norms
lora.py      LoRA, low-rank changes by peft; targets.py finds the layers that it changes
ia3.py       IA3, scales of what these layers return
adapter.py   Adapter, a bottleneck behind each block
prefix.py    Prefix, gated keys and values in each attention
prompt.py    Prompt, virtual tokens behind each text
apply.py     fine-tuned weights put into a loaded network

A method that adds modules names its addition ("added_0", "added_1", ... in the order of the fits that made them), gives
a record of plain values, and builds the modules again from the record and their tensors, whose names contain that of
the addition: ``<module>.added_0.<rest>``, or ``<layer>.lora_A.added_0.weight``.
"""
