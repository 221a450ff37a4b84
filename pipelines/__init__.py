"""Offline, restartable work on recorded traffic and workloads."""
