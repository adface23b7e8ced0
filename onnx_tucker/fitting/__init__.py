"""Chains from weights and from data, node after node."""
