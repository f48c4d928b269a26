"""Advice before training: what the data is like, and which strategy and first settings suit it."""

from skembed.advice.advisor import Advice, advise
from skembed.advice.rules import RULES, Rule

__all__ = ["RULES", "Advice", "Rule", "advise"]
