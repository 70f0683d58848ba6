"""A verification as one HTML page that needs nothing else.

write_report(verification.to_dict(), Path("report.html"))
"""

from grow.verification.report.html_page import render, write_report
from grow.verification.report.page_file import check_place

__all__ = ["check_place", "render", "write_report"]
