"""`--ranks auto`: the best ranks for budgets, or for what the outputs may lose."""
