"""What a running service tells of itself: `/health` for a person, `/metrics` for Prometheus. Nothing of a patient."""
