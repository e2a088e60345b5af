"""Tests of ``cam_hub.images``."""
