"""Plans every architecture of a library at tiny size: what is planned whole, by regions, refused, or wrong."""
