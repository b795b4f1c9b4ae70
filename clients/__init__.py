"""Client halves: local training, the Flower ClientApp, workers."""
