"""What runs left: results read back, compared, shown as an HTML report and as a model card. Imports `utils`, `data`,
`metrics`, `engine`.
"""

from report.content import Content, gather
from report.page import write_report

__all__ = ["Content", "gather", "write_report"]
