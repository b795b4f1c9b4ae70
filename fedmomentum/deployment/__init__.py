"""Real clients across machines: a scenario through Flower's SuperLink and SuperNodes, to the weights of the simulation.

``serverapp:app`` and ``clientapp:app`` are the two halves of a Flower App; ``deploy`` sends one off and follows it.
"""
