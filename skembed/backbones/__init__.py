"""Pre-trained networks behind one interface, `Backbone`.

base.py      `Backbone` and what passes through it: items, tokens, options
spec.py      picklable identity of a network, and tensors that training changed
blocks.py    ordered depth, and entering a network behind a block
packing.py   sequences end to end without padding, and their attention
attention.py transformers' networks on packed texts
adapters.py  small modules that act inside a network

models/      one adapter per family: the only place that imports timm, transformers and torchaudio
weights/     directories of weights: finding, fetching, vetting and packing them
loading/     from a name to a loaded network: registry, card, load
tuning/      methods: what fine-tuning trains or adds, and how it is built again
accelerate/  the same rows, sooner
"""
