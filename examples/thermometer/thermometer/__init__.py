"""Thermometer readings as a modality for perceiver."""

from thermometer.adapter import Thermometer
from thermometer.readings import Readings

__all__ = ["Readings", "Thermometer"]
