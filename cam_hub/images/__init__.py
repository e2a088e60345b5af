"""Photos and clips: decoded safely, turned into a model's input, and mapped back onto the photo."""
