"""Stage 1: a backbone and its joint linear classifier, trained end to end (paper section 3)."""
