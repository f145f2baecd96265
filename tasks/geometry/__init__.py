"""Streaming geometric reconstruction: depth, rays and camera poses."""

from .options import GeometryOptions
from .ply import write_ply
from .prediction import Prediction
from .task import Geometry

__all__ = ["Geometry", "GeometryOptions", "Prediction", "write_ply"]
