"""The last step: weights of chains trained on inputs, with or without labels."""
