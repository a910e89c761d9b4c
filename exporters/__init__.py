"""Any torch module to ONNX, and ONNX to a TensorRT plan. Knows nothing of GANs and never imports sagan_deploy."""
