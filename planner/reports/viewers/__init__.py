"""Schedules in the formats of viewers that people have: Perfetto, pytorch.org/memory_viz, spreadsheets."""
