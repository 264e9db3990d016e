"""Exports a run's classifier for use without fastlt: folded into one linear layer after its backbone."""
