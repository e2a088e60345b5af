"""What a repo of a timm model contains: read, checked, and made into a network."""
