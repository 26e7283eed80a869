"""Having the graphs of a program compiled, without its recomputation being undone."""
