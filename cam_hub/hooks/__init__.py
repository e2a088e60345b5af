"""Running a network: hooks, gradients, frozen eval mode, memory, fast paths."""
