"""What a model, a process and a run cost, counted."""
