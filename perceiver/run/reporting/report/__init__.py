"""report.html: everything about a run on one page, in one file, without network."""

from perceiver.run.reporting.report.callback import Report

__all__ = ["Report"]
