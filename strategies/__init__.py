"""Server halves: Flower Strategy classes."""
