"""Small networks by name."""
