"""torchvision's models and their checkpoints."""
