"""What a model answers, and what of its answer is explained: one task per kind of output."""
