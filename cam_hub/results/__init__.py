"""Explanations and comparisons: maps, overlays, manifests, files and upload."""
