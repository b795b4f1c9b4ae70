"""The fedmomentum command."""
