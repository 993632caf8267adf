"""Make int8 candidates out of an ONNX file."""
