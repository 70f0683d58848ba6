"""What a run writes so that it can go on."""
