"""Tests of ``cam_hub.sources``."""
