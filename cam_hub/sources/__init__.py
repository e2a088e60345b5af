"""Where models come from: registry, store, search and download."""
