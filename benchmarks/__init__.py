"""Ratios against what people would write themselves, measured in one run; run by people, never by tests."""
