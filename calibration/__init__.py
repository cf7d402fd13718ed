"""Which pictures an int8 graph is calibrated on, and the ranges found on them.

Owns the sampling over domains, the calibration set with its hashes, and activation ranges.
Does not own the graph that is quantised (see ``export``). Imports neither torch nor
ultralytics: ranges can be taken again where only the device side is installed.
"""
