"""Writes the reference of all settings to standard output."""

import sys

from duckmesh.app.settings import render

sys.stdout.write(render())
