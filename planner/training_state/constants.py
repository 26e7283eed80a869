"""Names of the constant bytes that a training state adds to ``Graph.constants``."""

MASTER = "master weights"
GATHERED = "gathered blocks"
ACCUMULATED = "accumulated gradients"
BUCKETS = "gradient buckets"
