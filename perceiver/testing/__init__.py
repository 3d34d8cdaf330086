"""Conformance kits: does a plug-in keep what the rest of the package relies on? One for each kind of plug-in.

Each kit is a list of small named checks, for pytest to run one by one,

    @pytest.mark.parametrize("check", adapter_checks(make_adapter, make_input, grid_axes=(1,)), ids=str)
    def test_adapter(check: Check) -> None:
        check()

and a function that runs them all and reports by name what failed: `check_adapter`, `check_head`, `check_modality`,
`check_data_module`.
Nothing here needs pytest.
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
