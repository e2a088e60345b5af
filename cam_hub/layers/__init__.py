"""Which layers are spatial, in which layout, and which one to explain."""
