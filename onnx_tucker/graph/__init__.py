"""All knowledge of ONNX files and graphs."""
