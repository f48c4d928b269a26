"""Modules that fine-tuning adds to a network: adding them, and building them again.

modules.py   adapters, prefixes, prompts; lora.py low-rank factors by peft
"""
