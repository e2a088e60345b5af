"""The files of a model's repo, checked, and the network built from them."""
