"""ONNX to a TensorRT plan, with TensorRT 10 and 11 and TensorRT for RTX through one code path."""
