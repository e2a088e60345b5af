"""The same cases through every interface."""
