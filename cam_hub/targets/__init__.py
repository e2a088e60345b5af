"""Which score is explained: tasks, outputs, classes and predictions."""
