"""What a run reports, and where to."""
