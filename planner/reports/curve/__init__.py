"""Extra time against budget: the data, and its table, drawings and notebook view."""
