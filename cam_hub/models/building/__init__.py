"""Networks built without initialising weights that are then overwritten."""
