"""The names that both halves of a round agree on: keys of records in Flower messages. Imports nothing."""

from __future__ import annotations

ARRAYS = "arrays"
"""The ArrayRecord of the model (parameters and buffers) in a message and in a reply: Flower's own default."""
CONFIG = "config"
"""The ConfigRecord of a message: Flower's own default."""
METRICS = "metrics"
"""The MetricRecord of a reply."""
NUM_EXAMPLES = "num-examples"
"""Weight of a reply: Flower's own default."""
SERVER_ROUND = "server-round"
"""Round number in the config: Flower's own name."""
REDUCTION = "fedmomentum-reduction"
"""Config key with which a strategy tells the engine what it needs of the replies of a round: `MEAN` or `EVERY`."""
MEAN = "mean"
"""The strategy only uses weighted means: the engine may answer for a whole block of clients with one reply that holds
their weighted mean, their summed `NUM_EXAMPLES`, and a `MEMBERS` record."""
EVERY = "every"
"""The strategy needs each client's own reply (median, Krum). The default where a message does not say."""
MEMBERS = "members"
"""ConfigRecord in a block's reply: equal-length lists, one entry an accepted client: `client` (int), `num-examples`
(float) and every metric by its name (float). Its absence means that the reply is one client's own."""
BUFFERS = "fedmomentum-buffers"
"""Config key: names of the tensors that are buffers (batch-norm statistics), joined by newlines; they are averaged and
never pass through a server optimizer."""
