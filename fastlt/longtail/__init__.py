"""Samplers and losses for long-tailed data."""

DRAWINGS = ("quota", "iid", "dataloader", "reference")  # how a Sampler draws an epoch from the class probabilities
