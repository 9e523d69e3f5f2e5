"""Speed and memory of art_ext beside ART and a plain loop, as shares of what the arithmetic needs."""
