"""Tools that do not depend on embeddings.

parameters.py       checks of constructor parameters, with hints
warnings.py         warnings that point at the user's line, once where that is enough
progress.py         bars with an estimate, and lines where there is no terminal; sample_watch.py names slow samples
identity.py         equal values have one identity; code_identity.py that of functions and objects
naming.py           names values and suggests spellings
sealed_files.py     private files with a digest over their content
device.py           which device and precision; torch_modes.py torch's global state
seeding.py          seeds that leave the caller's generators alone; blas.py threads of small products
plotting.py         colors, axes and labels; plot_layout.py keeps text inside of its cell
sklearn_private.py  the only module that imports private parts of scikit-learn
"""
