"""Conformance kits: check that a plug-in keeps the contract of its kind, on which the rest of the package relies.

Each kit is a list of small named checks, for pytest to run individually,

    @pytest.mark.parametrize("check", adapter_checks(make_adapter, make_input, grid_axes=(1,)), ids=str)
    def test_adapter(check: Check) -> None:
        check()

and a function that runs all checks and reports the failures by name: `check_adapter`, `check_head`, `check_modality`,
`check_data_module`. Nothing here requires pytest.
"""

from perceiver.testing.adapter import adapter_checks, check_adapter
from perceiver.testing.check import Check
from perceiver.testing.data_module import check_data_module, data_module_checks
from perceiver.testing.head import check_head, head_checks
from perceiver.testing.modality import check_modality, modality_checks

__all__ = [
    "Check",
    "adapter_checks",
    "check_adapter",
    "check_data_module",
    "check_head",
    "check_modality",
    "data_module_checks",
    "head_checks",
    "modality_checks",
]
