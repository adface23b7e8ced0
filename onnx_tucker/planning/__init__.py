"""What nodes can become and what that takes, by measurement: a plan."""
