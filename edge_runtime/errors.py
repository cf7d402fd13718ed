"""Every error a user can cause, by the part of the house that raises it.

Owns the exception classes only. Messages name the object, the value and the remedy;
only the command line turns one into a single line and exit code 2.
"""

from __future__ import annotations


class LeukoscopeError(Exception):
    """Something outside the program is wrong and a person can mend it."""


class SettingsError(LeukoscopeError):
    """A settings file, environment variable or flag holds a bad value."""


class BundleError(LeukoscopeError):
    """A model bundle is missing, incomplete, altered or of another schema."""


class CameraError(LeukoscopeError):
    """A source of frames cannot be opened or holds nothing to look at."""


class BackendError(LeukoscopeError):
    """An inference backend is not available here or refuses the model."""


class StoreError(LeukoscopeError):
    """A result cannot be written."""


class DataError(LeukoscopeError):
    """A training or evaluation data set is malformed."""


class FrameError(LeukoscopeError):
    """One frame cannot be used; the film goes on and records the reason."""


class RecordError(LeukoscopeError):
    """A stored record is not there, or its state does not allow what was asked."""


class AccessError(LeukoscopeError):
    """A sign-in is refused, or a person's role does not allow what was asked."""
