"""Models on the Hub: asked about, fetched into its cache, loaded, listed."""
