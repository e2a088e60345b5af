"""Explanations of images: forward, backward, accumulation, pass cache."""
