"""onnxruntime sessions: running, timing and comparing models."""
