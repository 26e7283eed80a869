"""Planning some blocks of a model and running the rest as it is."""
