"""One step of training, on one process or many."""
