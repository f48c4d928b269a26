"""Adapters, one per family of networks.

image_network.py, image_timm.py, image_transformers.py   images; image_prepare.py resizes and scales them
text_transformers.py   texts; text_tokens.py reads their tokenizers
sentence_layout.py     directories of sentence-transformers
audio_waveform.py, audio_whisper.py, audio_transformers.py, audio_torchaudio.py   recordings
resuming.py            items that enter a network behind a block
transformers_loading.py   reading transformers' directories, offline
"""
