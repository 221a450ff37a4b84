"""The HTTP edge: one request path from admission to record."""
