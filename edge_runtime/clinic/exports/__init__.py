"""What leaves the store: a film as CSV, JSON or FHIR, corrected fields as a training set.

Imports nothing here: a run without a clinic needs none of it, nor the extra ``clinic``.
"""
