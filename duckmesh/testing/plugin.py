"""The pytest plugin that a wheel of DuckMesh brings: failed laws show what they compared.

Suites live outside the tests that use them, so pytest would leave their ``assert`` statements bare. The plugin
names the modules and imports none of them, so that a test run that uses no suite pays nothing.
"""

import pkgutil
import sys

import pytest

import duckmesh.testing

_MODULES = [f"duckmesh.testing.{module.name}" for module in pkgutil.iter_modules(duckmesh.testing.__path__)]

pytest.register_assert_rewrite(*(name for name in _MODULES if name not in sys.modules))
