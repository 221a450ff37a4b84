"""The project's own workload: seeded generators and their tables of wording."""
