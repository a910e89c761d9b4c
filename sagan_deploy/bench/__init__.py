"""Latency, throughput, memory and the share of what the machine could do, side by side in one run."""

from sagan_deploy.bench.measure import bench
from sagan_deploy.bench.report import BenchOptions, BenchReport, Prediction, Row, compare, read_report

__all__ = ["BenchOptions", "BenchReport", "Prediction", "Row", "bench", "compare", "read_report"]
