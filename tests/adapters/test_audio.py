"""Audio adapters against independent references, on real speech where it is at hand and on synthetic sound always."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hydra.utils import instantiate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from perceiver.adapters.audio import LogMelBins, LogMelFrames, WaveformFrames
from perceiver.adapters.log_mel import LogMel
from perceiver.tokens.positions import Fourier, LearnedTable
from perceiver.tokens.tokens import Tokens

SAMPLE_RATE = 8000


def waveform_frames(*, audio_channels: int = 1, frame: int = 50) -> WaveformFrames:
    return WaveformFrames(
        audio_channels=audio_channels,
        frame=frame,
        sample_rate=SAMPLE_RATE,
        duration_seconds=2.0,
        position=Fourier(num_bands=8, resolution=[320.0]),
    )


def log_mel_frames(*, audio_channels: int = 1, num_mels: int = 32, mean: float = 0.0, std: float = 1.0) -> LogMelFrames:
    return LogMelFrames(
        audio_channels=audio_channels,
        sample_rate=SAMPLE_RATE,
        num_mels=num_mels,
        window_seconds=0.025,
        hop_seconds=0.010,
        duration_seconds=2.0,
        position=Fourier(num_bands=8, resolution=[200.0]),
        mean=mean,
        std=std,
    )


def log_mel_bins(*, audio_channels: int = 1, num_mels: int = 32) -> LogMelBins:
    return LogMelBins(
        audio_channels=audio_channels,
        sample_rate=SAMPLE_RATE,
        num_mels=num_mels,
        window_seconds=0.025,
        hop_seconds=0.010,
        duration_seconds=2.0,
        position=Fourier(num_bands=8, resolution=[200.0, float(num_mels)]),
    )


FACTORIES = [waveform_frames, log_mel_frames, log_mel_bins]
STEPS = {waveform_frames: 50, log_mel_frames: 80, log_mel_bins: 80}


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
def factory(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture(scope="session")
def digits(data_root: Path) -> list[Tensor]:
    """A few real recordings of different lengths, each (1, samples)."""
    folder = data_root / "free-spoken-digit-dataset" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"no spoken digits at {folder}")
    recordings = []
    for name in ["0_george_0", "3_jackson_7", "5_theo_2", "7_nicolas_11", "9_lucas_30", "6_yweweler_4"]:
        samples, sample_rate = soundfile.read(folder / f"{name}.wav", dtype="float32")
        assert sample_rate == SAMPLE_RATE
        recordings.append(torch.from_numpy(samples)[None])
    return recordings


def padded(recordings: list[Tensor], *, extra: int = 0, fill: float = float("nan")) -> tuple[Tensor, Tensor]:
    """A batch of the recordings, what is past their ends filled with `fill`, and its mask."""
    longest = max(recording.shape[1] for recording in recordings) + extra
    x = torch.full((len(recordings), recordings[0].shape[0], longest), fill)
    mask = torch.zeros(len(recordings), longest, dtype=torch.bool)
    for row, recording in enumerate(recordings):
        x[row, :, : recording.shape[1]] = recording
        mask[row, : recording.shape[1]] = True
    return x, mask


def valid(tokens: Tokens, row: int) -> Tensor:
    """The valid tokens of one sample, (M, C)."""
    dense, mask = tokens.dense(), tokens.dense_mask()
    return dense[row] if mask is None else dense[row, mask[row]]


def assert_alone_equals_padded(adapter: nn.Module, recordings: list[Tensor], *, extra: int = 0) -> None:
    x, mask = padded(recordings, extra=extra)
    together = adapter(x, mask)
    for row, recording in enumerate(recordings):
        alone = valid(adapter(recording[None]), 0)
        assert alone.shape == valid(together, row).shape
        torch.testing.assert_close(valid(together, row), alone, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- framing against references by hand


@pytest.mark.parametrize("audio_channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 49, 50, 51, 1000])
def test_waveform_frames_are_cut_as_by_hand(audio_channels: int, samples: int) -> None:
    x = torch.randn(3, audio_channels, samples)
    tokens = waveform_frames(audio_channels=audio_channels)(x)
    num_frames = -(-samples // 50)
    expected = np.zeros((3, num_frames, audio_channels * 50), dtype=np.float32)
    for row in range(3):
        for channel in range(audio_channels):
            for sample in range(samples):
                expected[row, sample // 50, channel * 50 + sample % 50] = x[row, channel, sample]
    assert tokens.grid == (num_frames,)
    assert tokens.mask is None
    np.testing.assert_array_equal(tokens.parts[0].numpy(), expected)


@pytest.mark.parametrize("samples", [1, 79, 80, 81, 160, 199, 3000])
def test_log_mel_equals_a_float64_computation_from_the_definition(samples: int) -> None:
    log_mel = LogMel(
        sample_rate=SAMPLE_RATE, num_mels=20, window_seconds=0.025, hop_seconds=0.010, epsilon=1e-6, mean=-3.0, std=2.0
    )
    x = torch.randn(2, samples)
    fft, hop, window = log_mel.fft_size, 80, 200
    assert (log_mel.hop, log_mel.window.shape[0]) == (hop, window)
    num_frames = -(-samples // hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    long = np.zeros((2, num_frames * hop + 2 * fft))
    long[:, fft : fft + samples] = x.numpy()
    # The window reaches as far before its hop as after it.
    starts = fft + np.arange(num_frames) * hop - (window - hop) // 2
    frames = np.stack([long[:, start : start + window] for start in starts], axis=1)
    power = np.abs(np.fft.rfft(frames * hann, n=fft)) ** 2

    def to_mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(0, to_mel(SAMPLE_RATE / 2), 22) / 2595) - 1)
    frequencies = np.fft.rfftfreq(fft, 1 / SAMPLE_RATE)
    filters = np.stack(
        [
            np.interp(frequencies, [low, middle, high], [0, 1, 0], left=0, right=0)
            for low, middle, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True)
        ]
    )
    expected = (np.log(power @ filters.T + 1e-6) + 3) / 2
    np.testing.assert_allclose(log_mel(x).numpy(), expected.transpose(0, 2, 1), rtol=1e-4, atol=2e-4)


def test_log_mel_equals_torchaudio_on_its_own_padding() -> None:
    log_mel = log_mel_frames(num_mels=20).log_mel
    reference = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, n_fft=log_mel.fft_size, win_length=200, hop_length=80, n_mels=20, center=False
    )
    x = torch.randn(4, 2000)
    before = (log_mel.fft_size - 80) // 2
    around = nn.functional.pad(x, (before, log_mel.fft_size))
    torch.testing.assert_close(log_mel(x), (reference(around) + 1e-6).log()[..., :25], rtol=1e-5, atol=1e-5)


def test_log_mel_frames_hold_the_bands_of_each_channel_in_turn() -> None:
    adapter = log_mel_frames(audio_channels=2, num_mels=16, mean=-4.0, std=3.0)
    x = torch.randn(3, 2, 900)
    tokens = adapter(x)
    content = tokens.parts[0]
    assert content.shape == (3, 12, 32)
    for channel in range(2):
        spectrum = log_mel_frames(num_mels=16).log_mel(x[:, channel])
        own = content[..., channel * 16 : (channel + 1) * 16]
        torch.testing.assert_close(own, (spectrum.transpose(1, 2) + 4) / 3, rtol=1e-5, atol=1e-5)


def test_log_mel_bins_hold_the_same_values_one_by_one() -> None:
    x = torch.randn(3, 2, 900)
    frames = log_mel_frames(audio_channels=2)(x).parts[0]
    tokens = log_mel_bins(audio_channels=2)(x)
    assert tokens.grid == (12, 32)
    assert [tuple(part.shape) for part in tokens.parts] == [(3, 12, 32, 2), (1, 12, 1, 17), (1, 1, 32, 17)]
    torch.testing.assert_close(tokens.parts[0][..., 1], frames[..., 32:])
    torch.testing.assert_close(tokens.parts[2][0, 0, :, 0], torch.linspace(-1, 1, 32))


def test_channels_are_what_tokens_have(factory) -> None:
    adapter = factory(audio_channels=2)
    assert adapter.channels == adapter(torch.randn(1, 2, 500)).channels


def test_position_is_the_middle_of_each_frame_in_seconds(factory) -> None:
    step = STEPS[factory]
    tokens = factory()(torch.randn(1, 1, 40_000))
    coordinates = tokens.parts[1][..., 0].flatten().numpy()
    seconds = (np.arange(40_000 // step) + 0.5) * step / SAMPLE_RATE
    # Times 0 to 2 s are -1 to 1; 5 s are beyond.
    np.testing.assert_allclose(coordinates, seconds - 1, rtol=0, atol=1e-6)
    assert tokens.parts[1].shape[0] == 1


def test_a_learned_table_serves_as_position() -> None:
    adapter = WaveformFrames(
        frame=50, sample_rate=SAMPLE_RATE, duration_seconds=2.0, position=LearnedTable(grid=[320], channels=5)
    )
    assert adapter(torch.randn(2, 1, 4000)).channels == adapter.channels == 55


# ---------------------------------------------------------------- masks


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=4),
    extra=st.integers(0, 300),
    which=st.sampled_from(FACTORIES),
    training=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(lengths=[1, 700], extra=0, which=log_mel_frames, training=True, seed=0)
@example(lengths=[80, 81, 79], extra=1, which=log_mel_bins, training=False, seed=0)
@example(lengths=[50, 51, 49], extra=1, which=waveform_frames, training=True, seed=0)
def test_alone_equals_padded(lengths: list[int], extra: int, which, training: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    recordings = [torch.randn(2, length, generator=generator) for length in lengths]
    assert_alone_equals_padded(which(audio_channels=2).train(training), recordings, extra=extra)


@pytest.mark.parametrize("training", [True, False])
def test_alone_equals_padded_on_speech(factory, digits: list[Tensor], training: bool) -> None:
    assert_alone_equals_padded(factory().train(training), digits, extra=123)


def test_number_of_valid_tokens_follows_the_valid_samples(factory) -> None:
    step = STEPS[factory]
    lengths = [1, step - 1, step, step + 1, 3 * step, 5 * step + 7]
    x, mask = padded([torch.randn(1, length) for length in lengths], extra=10 * step)
    token_mask = factory()(x, mask).mask
    assert token_mask is not None
    frames = token_mask.flatten(2).all(-1) if token_mask.ndim == 3 else token_mask
    assert frames.sum(1).tolist() == [-(-length // step) for length in lengths]
    assert torch.equal(token_mask.any(-1) if token_mask.ndim == 3 else token_mask, frames)


def test_presence_masks_whole_recordings(factory) -> None:
    x = torch.randn(3, 1, 333)
    x[1] = float("nan")
    tokens = factory()(x, torch.tensor([True, False, True]))
    assert tokens.mask is not None
    assert tokens.mask.flatten(1).all(1).tolist() == [True, False, True]
    assert not tokens.mask[1].any()
    assert all(part.isfinite().all() for part in tokens.parts)
    torch.testing.assert_close(valid(tokens, 2), valid(factory()(x[2:]), 0), rtol=1e-6, atol=1e-6)


def test_holes_are_silence_and_fully_masked_frames_are_invalid(factory) -> None:
    step = STEPS[factory]
    x = torch.randn(1, 1, 12 * step)
    mask = torch.ones(1, 12 * step, dtype=torch.bool)
    mask[:, 4 * step : 9 * step + 3] = False
    silent = torch.where(mask[:, None], x, 0.0)
    x[:, :, 4 * step : 9 * step + 3] = float("inf")
    tokens = factory()(x, mask)
    assert tokens.mask is not None
    frames = tokens.mask[0] if tokens.mask.ndim == 2 else tokens.mask[0].all(-1)
    assert frames.tolist() == [True] * 4 + [False] * 5 + [True] * 3
    torch.testing.assert_close(tokens.parts[0], factory()(silent).parts[0])


def test_masked_content_reaches_neither_tokens_nor_gradients(factory) -> None:
    recordings = [torch.randn(1, 100), torch.randn(1, 777)]
    results = []
    for fill in (float("nan"), float("inf"), 3e38, 0.0):
        x, mask = padded(recordings, fill=fill)
        x.requires_grad_()
        tokens = factory()(x, mask)
        tokens.dense().square().sum().backward()
        assert x.grad is not None
        results.append((tokens.parts[0].detach(), x.grad))
        assert not x.grad[~mask[:, None]].any()
    for content, gradient in results:
        assert torch.equal(content, results[-1][0])
        assert torch.equal(gradient, results[-1][1])


def test_gradients_reach_every_valid_sample(factory) -> None:
    x = torch.randn(2, 1, 403, requires_grad=True)
    factory()(x).parts[0].square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).all()


def test_samples_do_not_see_one_another(factory) -> None:
    x = torch.randn(5, 1, 650)
    together = factory()(x).parts[0]
    x[[0, 2, 4]] = 1e4 * torch.randn(3, 1, 650)
    assert torch.equal(factory()(x).parts[0][[1, 3]], together[[1, 3]])


# ---------------------------------------------------------------- what a log-mel spectrum must show


@pytest.mark.parametrize("hertz", [150, 440, 1000, 2345, 3600])
def test_a_sine_lights_the_band_of_its_frequency(hertz: int) -> None:
    seconds = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    x = torch.sin(2 * torch.pi * hertz * seconds).float()[None, None]
    edges = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700) / 33 * np.arange(1, 33)
    nearest = int(np.abs(edges - 2595 * np.log10(1 + hertz / 700)).argmin())
    content = log_mel_frames()(x).parts[0]
    assert (content[0, 2:-2].argmax(-1) == nearest).all()


def test_silence_is_finite_with_finite_gradients(factory) -> None:
    x = torch.zeros(1, 1, 500, requires_grad=True)
    tokens = factory()(x)
    tokens.dense().sum().backward()
    assert tokens.dense().isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    if factory is not waveform_frames:
        torch.testing.assert_close(tokens.parts[0].detach(), torch.full_like(tokens.parts[0], np.log(1e-6)))


@pytest.mark.parametrize("num_mels", [8, 40, 64, 128, 256])
def test_no_band_is_dead(num_mels: int) -> None:
    content = log_mel_frames(num_mels=num_mels)(torch.randn(1, 1, 8000)).parts[0]
    assert (content > np.log(1e-6) + 1).all()


def test_speech_is_near_unit_scale_with_its_own_mean_and_std(digits: list[Tensor]) -> None:
    raw = torch.cat([log_mel_frames()(digit[None]).parts[0].flatten() for digit in digits])
    adapter = log_mel_frames(mean=raw.mean().item(), std=raw.std().item())
    scaled = torch.cat([adapter(digit[None]).parts[0].flatten() for digit in digits])
    assert abs(scaled.mean().item()) < 1e-3
    assert abs(scaled.std().item() - 1) < 1e-3


# ---------------------------------------------------------------- the mean of a recording


def without_mean(*, audio_channels: int = 1) -> LogMelFrames:
    adapter = log_mel_frames(audio_channels=audio_channels)
    adapter.subtract_mean = True
    return adapter


@pytest.mark.parametrize("make", [log_mel_frames, log_mel_bins])
def test_each_band_of_each_channel_loses_its_mean(make) -> None:
    x, adapter = torch.randn(3, 2, 900), make(audio_channels=2)
    content = adapter(x).parts[0]
    adapter.subtract_mean = True
    torch.testing.assert_close(adapter(x).parts[0], content - content.mean(dim=1, keepdim=True), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.content(x).values, adapter(x).parts[0])


@given(lengths=st.lists(st.integers(1, 700), min_size=1, max_size=4), extra=st.integers(0, 300), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_the_mean_is_that_of_the_valid_hops(lengths: list[int], extra: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    recordings = [torch.randn(1, length, generator=generator) for length in lengths]
    x, mask = padded(recordings, extra=extra)
    together = without_mean()(x, mask)
    for row, recording in enumerate(recordings):
        torch.testing.assert_close(valid(together, row), valid(without_mean()(recording[None]), 0), rtol=1e-5, atol=1e-5)


def test_loudness_and_a_filter_are_lost_with_the_mean() -> None:
    """A filter shorter than the window multiplies spectra, so that it adds to their logarithms."""
    x = torch.randn(1, 1, 16_000)
    filtered = torch.nn.functional.conv1d(nn.functional.pad(x, (1, 0)), torch.tensor([[[-0.9, 1.0]]]))
    [plain, louder, brighter] = [without_mean()(wave).parts[0][:, 3:-3] for wave in (x, 20 * x, filtered)]
    torch.testing.assert_close(louder, plain, rtol=0, atol=1e-3)
    assert float((brighter - plain).abs().mean()) < 0.2
    [before, after] = [log_mel_frames()(wave).parts[0][:, 3:-3] for wave in (x, filtered)]
    assert float((after - before).abs().mean()) > 0.8


def test_an_absent_recording_has_no_mean() -> None:
    x = torch.randn(2, 1, 500)
    x[1] = float("nan")
    tokens = without_mean()(x, torch.tensor([True, False]))
    assert tokens.parts[0].isfinite().all()
    torch.testing.assert_close(valid(tokens, 0), valid(without_mean()(x[:1]), 0), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- precision


def test_bfloat16_autocast_changes_nothing(factory) -> None:
    adapter = factory()
    x = torch.randn(2, 1, 1000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = adapter(x)
    outside = adapter(x)
    for part, expected in zip(inside.parts, outside.parts, strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, expected)


def test_casting_the_model_to_bfloat16_rounds_no_constants(factory) -> None:
    x = torch.randn(2, 1, 1000)
    expected = factory()(x)
    for part, reference in zip(factory().to(torch.bfloat16)(x).parts, expected.parts, strict=True):
        assert torch.equal(part, reference)


def test_constants_are_not_in_checkpoints_and_nothing_is_learned(factory) -> None:
    assert factory().state_dict() == {}
    assert not list(factory().parameters())


@pytest.mark.usefixtures("unchecked")
def test_one_exported_program_serves_all_lengths() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = log_mel_frames()

        def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
            tokens = self.adapter(x, mask)
            return tokens.dense(), tokens.dense_mask()

    def inputs(samples: int) -> tuple[Tensor, Tensor]:
        return padded([torch.randn(1, samples), torch.randn(1, samples // 2)])

    samples = torch.export.Dim.AUTO
    program = torch.export.export(Dense(), inputs(4000), dynamic_shapes={"x": {2: samples}, "mask": {1: samples}})
    for length in (163, 4001, 20_000):
        x, mask = inputs(length)
        expected, expected_mask = Dense()(x, mask)
        dense, dense_mask = program.module()(x, mask)
        torch.testing.assert_close(dense, expected)
        assert torch.equal(dense_mask, expected_mask)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 500), r"expected a waveform \(batch, 1, samples\), got shape \(2, 500\).*x\[:, None\]"),
        (torch.zeros(2, 1, 1, 500), r"got shape \(2, 1, 1, 500\)"),
        (torch.zeros(2, 3, 500), r"expected 1 audio channels.*got 3 in shape \(2, 3, 500\).*audio_channels=3"),
        (torch.zeros(2, 1, 0), r"expected at least one sample, got shape \(2, 1, 0\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_named(factory, x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory()(x)


@pytest.mark.usefixtures("unchecked")
def test_integer_samples_are_refused(factory) -> None:
    with pytest.raises(TypeError, match=r"floating point samples, got torch.int16.*32768"):
        factory()(torch.zeros(1, 1, 500, dtype=torch.int16))


@pytest.mark.usefixtures("unchecked")
def test_wrong_masks_are_named(factory) -> None:
    with pytest.raises(ValueError, match=r"expected \(2,\).*or \(2, 500\).*got \(2, 499\)"):
        factory()(torch.zeros(2, 1, 500), torch.ones(2, 499, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"mask: expected dtype bool"):
        factory()(torch.zeros(2, 1, 500), torch.ones(2, 500))


@pytest.mark.parametrize("name", ["frame", "sample_rate", "audio_channels", "duration_seconds"])
def test_waveform_arguments_must_be_positive(name: str) -> None:
    arguments: dict[str, int | float] = {"audio_channels": 1, "frame": 50, "sample_rate": 8000, "duration_seconds": 2.0}
    arguments[name] = type(arguments[name])(0)
    with pytest.raises(ValueError, match=rf"WaveformFrames\.{name}: expected a finite number above 0, got 0"):
        WaveformFrames(**arguments, position=Fourier(num_bands=1, resolution=[10.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hop_seconds": 0.05}, "a window no shorter than the hop"),
        ({"hop_seconds": 1e-5}, "a hop of at least one sample"),
        ({"max_hertz": 5000.0}, "max_hertz <= 4000"),
        ({"min_hertz": 900.0, "max_hertz": 800.0}, "min_hertz < max_hertz"),
        ({"num_mels": 0}, "num_mels: expected a finite number above 0"),
        ({"std": 0.0}, "std: expected a finite number above 0"),
        ({"epsilon": 0.0}, "epsilon: expected a finite number above 0"),
        ({"num_mels": 100, "max_hertz": 0.5}, "too narrow"),
    ],
)
def test_log_mel_arguments_are_checked(arguments: dict[str, float], message: str) -> None:
    defaults = {"sample_rate": 8000, "num_mels": 32, "window_seconds": 0.025, "hop_seconds": 0.010}
    with pytest.raises(ValueError, match=message):
        LogMel(**{**defaults, **arguments})


# ---------------------------------------------------------------- configuration


# The import hook looks into omegaconf, whose classes have old base classes.
@pytest.mark.filterwarnings("ignore:.*deprecated by PEP 585")
@pytest.mark.parametrize(
    ("name", "kind", "grid"),
    [
        ("audio", LogMelFrames, (50,)),
        ("audio_mel_bins", LogMelBins, (25, 32)),
        ("audio_waveform", WaveformFrames, (63,)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configured_adapters_take_their_facts_from_the_data(
    repository: Path, name: str, kind: type[nn.Module], grid: tuple[int, ...]
) -> None:
    tree = {"model": {"adapters": {"voice": OmegaConf.load(repository / "conf" / "adapter" / f"{name}.yaml")}}}
    spec = {"kind": "audio", "shape": [2, None], "sample_rate": SAMPLE_RATE}
    from perceiver.run.configuration.resolve import resolve
    from perceiver.run.configuration.resolvers import register_resolvers

    register_resolvers()
    config = resolve(OmegaConf.create(tree), {"modalities": {"voice": spec}})
    adapter = instantiate(config["model"]["adapters"]["voice"], _convert_="all")
    assert type(adapter) is kind
    tokens = adapter(torch.randn(3, 2, 4000))
    assert tokens.grid == grid
    assert tokens.channels == adapter.channels
    if name != "audio_waveform":
        assert adapter.position.resolution[0] == pytest.approx(adapter.duration_seconds / adapter.log_mel.step_seconds)
