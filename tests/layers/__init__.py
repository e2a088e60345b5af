"""Tests of ``cam_hub.layers``."""
