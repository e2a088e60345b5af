"""The components of the page and their HTML."""
