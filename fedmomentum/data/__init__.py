"""Data sets, partitioners and the federated view of them."""
