"""Offline work on workloads: reading and making them, sending them as traffic, grading the answers."""
