"""Networks for use elsewhere: ONNX, int8 ONNX and torch.export programs, checked against PyTorch on real images."""
