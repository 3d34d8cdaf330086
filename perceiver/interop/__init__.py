"""Conversion of published weights from and to other libraries; each file names the extra that it requires."""
