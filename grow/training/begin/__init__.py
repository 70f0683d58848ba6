"""How a run begins: the model, its state and its first loss; or how it goes on."""
