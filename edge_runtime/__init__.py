"""What runs on the device: cameras, backends, stages, the film runner and its reports.

Imports neither torch nor ultralytics; import-linter and one test hold it to that.
"""

__version__ = "0.1.0"
