"""The simulation engine: a Flower Grid over blocks of clients."""
