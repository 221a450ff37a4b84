"""What can answer a call: backends, the embedded engine, adapters, templates."""
