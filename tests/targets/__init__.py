"""Tests of ``cam_hub.targets``."""
