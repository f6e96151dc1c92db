"""Engines that run a model: ONNX Runtime, TensorFlow, or an emulation. `loading` chooses one."""
