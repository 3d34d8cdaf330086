"""Thermometer readings as a modality for perceiver."""

from thermometer.adapter import Thermometer
from thermometer.weather import Weather

__all__ = ["Thermometer", "Weather"]
