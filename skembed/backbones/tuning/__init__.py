"""What fine-tuning adds to a network: adding it, and building it again.

modules.py   adapters, prefixes, prompts; lora.py low-rank factors by peft
"""
