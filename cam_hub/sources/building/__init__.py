"""Building networks: without drawing weights in vain, and first on paper."""
