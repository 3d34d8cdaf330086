"""The group `data`: flat keys for a source and its loading; data modules of other packages get all keys."""

import pytest
from digit_targets import InkCentres
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from perceiver.data import DataModule, Digits, PlacedDigits, RandomAffine
from perceiver.run.assembly.data import make_data


def test_flat_keys_go_to_the_source_or_to_the_module() -> None:
    config = OmegaConf.create(
        {
            "size": 100,
            "data": {
                "_target_": "perceiver.data.Digits",
                "test_size": "${size}",
                "batch_size": 7,
                "augment": {"_target_": "perceiver.data.RandomAffine", "degrees": 5.0},
                "num_labelled": None,
            },
        }
    )
    data = make_data(config.data)
    assert isinstance(data, DataModule)
    assert isinstance(data.source, Digits)
    assert (data.source.test_size, data.batch_size) == (100, 7)
    (transform,) = data.augment["image"].transforms.values()
    assert isinstance(transform.transform, RandomAffine)
    assert config.data._target_ == "perceiver.data.Digits", "left as it was"


def test_a_source_may_have_a_source() -> None:
    node = {"_target_": "perceiver.data.PlacedDigits", "source": {"_target_": "perceiver.data.Digits"}, "num_workers": 1}
    data = make_data(node)
    assert isinstance(data, DataModule)
    assert isinstance(data.source, PlacedDigits)
    assert isinstance(data.source.source, Digits)
    assert data.num_workers == 1


def test_other_data_modules_get_all_keys() -> None:
    data = make_data({"_target_": "digit_targets.InkCentres", "batch_size": 9})
    assert isinstance(data, InkCentres)
    assert data.batch_size == 9


def test_names_and_keys_that_there_are_not() -> None:
    with pytest.raises(InstantiationException, match=r"Error locating target 'perceiver\.data\.Digitz'"):
        make_data({"_target_": "perceiver.data.Digitz"})
    with pytest.raises(InstantiationException, match=r"(?s)'perceiver\.data\.RandomAffin'.*data\.augment"):
        make_data(
            OmegaConf.create(
                {"data": {"_target_": "perceiver.data.Digits", "augment": {"_target_": "perceiver.data.RandomAffin"}}}
            ).data
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'tset_size'"):
        make_data({"_target_": "perceiver.data.Digits", "tset_size": 3})
