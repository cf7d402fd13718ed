"""Networks that ultralytics does not have: attribute heads and detectors that carry one."""
