"""How good generated images are, in numbers: right class, right distribution, and not always the same one."""

from __future__ import annotations

from sagan_deploy.training.quality.classifier import Classifier, train_classifier
from sagan_deploy.training.quality.report import MOST_IMAGES, ClassQuality, QualityReport, evaluate_quality

__all__ = ["MOST_IMAGES", "ClassQuality", "Classifier", "QualityReport", "evaluate_quality", "train_classifier"]
