"""The endpoints for programs, one per file."""
