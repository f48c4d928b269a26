"""Directories of weights: finding, fetching, vetting and packing them.

files.py        which files decide, digests; json_files.py reads configurations
sentence_modules.py   folders of sentence-transformers' modules
bundled.py      weights that come as pip packages; hub.py fetches others
vetting.py      errors of damaged directories; size_limits.py checks sizes before anything is allocated
archive.py      a directory as bytes; ctranslate2.py reads that library's files
"""
