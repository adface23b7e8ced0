"""Lowering: convolutions in other forms, and the layout of values that goes with them."""
