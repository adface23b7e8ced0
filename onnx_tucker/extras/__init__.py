"""What needs packages that the core does without; imported only when it is asked for."""
