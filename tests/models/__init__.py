"""Tests of ``cam_hub.models``."""
