"""From a checkpoint to a bundle: float ONNX, int8 ONNX per runtime family, parity gate.

Owns graph surgery, quantisation, the accuracy gate and the bundle's writing. Does not own
the choice of calibration images (see ``calibration``) nor the reading of bundles (see
``edge_runtime``). ``train`` is reached through ``float_onnx`` only.
"""
