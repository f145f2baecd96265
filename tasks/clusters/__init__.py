"""Cluster discrimination against banks of class centres."""

from .options import Bank, ClustersOptions, CosFaceLoss, SigmoidLoss
from .task import Clusters

__all__ = ["Bank", "Clusters", "ClustersOptions", "CosFaceLoss", "SigmoidLoss"]
