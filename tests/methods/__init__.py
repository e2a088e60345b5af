"""Tests of ``cam_hub.methods``."""
