"""Write ONNX files, prove them equal to torch, and bundle them for an app."""
