"""A run as one page to show: `python -m utils.report RUN`."""

from utils.report.content import Content, gather
from utils.report.page import write_report

__all__ = ["Content", "gather", "write_report"]
