"""The report as one HTML file: drawn by matplotlib, laid out by a Jinja template that escapes every name."""
