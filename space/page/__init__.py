"""The page: panels, tabs, and the handlers of their events."""
