"""What people use a model for, asked of both checkpoints: harness tasks, masked words, sentence similarity."""
