"""Tests meet the frameworks as the tools do: with the workarounds in force."""

from lisa_backbone import compat

compat.apply()
