"""Programs that measure cam_hub. They are part of the repository, not of the package."""
