"""Asks a model by experiment which of its layers lie on the image, and which to explain."""
