"""Prediction on whole georeferenced scenes: windows in, map features and class rasters out.

Needs the packages of the extra `geo`.
"""
