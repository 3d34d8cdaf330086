"""Names of version 0.1 in the user's own YAML and on the command line."""

from omegaconf import OmegaConf

from perceiver.run.configuration.former_names import with_present_names


def test_old_names_become_present_ones_and_the_rest_stays() -> None:
    config = OmegaConf.create(
        {
            "task": {"words": {"_target_": "perceiver.token_masking.ByteWords"}},
            "augment": [{"_target_": "perceiver.data.augmentation.RandomShiftFlip", "shift": "${shift}"}, None],
            "interpolated": {"_target_": "${name}"},
            "missing": {"_target_": "???"},
            "reference": "${task}",
            "later": "???",
        }
    )
    before = OmegaConf.to_yaml(config)
    renamed = with_present_names(config)
    assert OmegaConf.to_yaml(config) == before
    assert OmegaConf.to_container(renamed) == {
        "task": {"words": {"_target_": "perceiver.masking.text.ByteWords"}},
        "augment": [{"_target_": "perceiver.data.augmentation.images.RandomShiftFlip", "shift": "${shift}"}, None],
        "interpolated": {"_target_": "${name}"},
        "missing": {"_target_": "???"},
        "reference": "${task}",
        "later": "???",
    }
