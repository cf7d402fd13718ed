"""The live view's engine: one film at a time, the picture under the microscope, where it stands.

Imports nothing here; knows nothing of the page that shows it (see ``clinic.web``).
"""
