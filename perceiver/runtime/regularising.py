"""Declaration of regularising arguments: what `regularise=false` switches off, stated where the arguments are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

_Target = TypeVar("_Target", bound=Callable[..., Any])

# torch's layers, losses and optimizers declare nothing; nor do data modules that know only Lightning.
_UNDECLARED: Mapping[str, Any] = MappingProxyType(
    {"augment": None, "dropout": 0.0, "label_smoothing": 0.0, "weight_decay": 0.0}
)


def regularising(**off: Any) -> Callable[[_Target], _Target]:
    """Decorate a class or function whose named arguments regularise, with the values that switch them off.

    Args:
        off: value by argument. Subclasses inherit the declaration and may add to it.

    Examples:
        >>> from perceiver import regularising
        >>> @regularising(dropout=0.0, noise=None)
        ... class MyAdapter: ...
        >>> @regularising(jitter=0.0)
        ... class MyOther(MyAdapter): ...
        >>> MyOther.regularising
        {'dropout': 0.0, 'noise': None, 'jitter': 0.0}
    """

    def declare(target: _Target) -> _Target:
        inherited: Mapping[str, Any] = getattr(target, "regularising", {})
        setattr(target, "regularising", {**inherited, **off})  # noqa: B010  (unknown to the type of any target)
        return target

    return declare


def regularising_arguments(target: object) -> Mapping[str, Any]:
    """Return the regularising arguments of a class or function, with the values that switch them off.

    A target without a declaration regularises by the arguments `augment`, `dropout`, `label_smoothing` and
    `weight_decay`.
    """
    declared: Mapping[str, Any] = getattr(target, "regularising", _UNDECLARED)
    return declared
