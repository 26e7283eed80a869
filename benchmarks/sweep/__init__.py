"""The standing sweep: operators, modules and random programs that nobody chose for us, planned and trained beside eager."""
