"""Tests of ``cam_hub.hooks``."""
