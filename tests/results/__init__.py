"""Tests of ``cam_hub.results``."""
