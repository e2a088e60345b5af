"""Tests of ``cam_hub.attribution``."""
