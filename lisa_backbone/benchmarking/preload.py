"""What the process that probes are forked from imports first, so that the frameworks can be imported after it."""

from .. import compat

compat.apply()
