"""Where models come from. Each source gives a ``LoadedModel``; ``registry`` chooses among them."""
