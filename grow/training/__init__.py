"""Continued pretraining: one readable loop on PyTorch's own distributed stack.

grow.train("my-base", "tokens", out="run", steps=1000)          ->  a Training
settings → text → sharding → after_growth → log → step → saved → begin → run

A run is a function of its settings: the batch, the masks and the dropout of a step follow from (seed, step), so a run
that is interrupted anywhere continues as if it had not been.
"""
