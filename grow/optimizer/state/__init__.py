"""Training states in files: the formats that are read, and their growth.

    in_files → parameter_names → of_grow_train, of_growth, of_trainer → find → growth

A training state is a mapping from names to tensors, `model.PARAMETER` (weights in full precision, where a run kept
them) and `optim.PARAMETER.KEY` (what an optimizer remembers), and what is carried beside it: step, tokens, data,
settings. Three formats are read, tensor by tensor and rows of a tensor: state/ of `grow train`, state/ of a growth, and
the folder of a stock Trainer. `grow.optimizer.dual_rule` has the rule by which each of them grows.
"""
