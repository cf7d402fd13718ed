"""Installed bundles of a device: two slots under one root, one of them active.

``files`` is the seam to the disk, ``records`` what is written beside a bundle, ``slots``
what lies where and which slot starts, ``install`` everything that changes it, ``cli`` the
``leukoscope device`` command.
"""
