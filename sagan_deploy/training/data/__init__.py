"""Labelled images from a folder, an array file, shards or a built-in set, and their seeded batches."""

from __future__ import annotations

from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.data.prepared import prepare
from sagan_deploy.training.data.sources import BUILT_IN, open_dataset

__all__ = ["BUILT_IN", "Dataset", "open_dataset", "prepare"]
