"""Models beside each other on one photo: by methods, layers or classes."""
