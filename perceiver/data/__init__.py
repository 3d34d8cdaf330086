"""Data sets, and the `DataModule` that makes `perceiver.samples.batch.Batch`es of them; its `spec` describes the data."""

from perceiver.data.augmentation.images import RandomAffine
from perceiver.data.augmentation.mixing import MixUpCutMix
from perceiver.data.datasets.class_prompts import ClassPrompts
from perceiver.data.datasets.digits import Digits
from perceiver.data.datasets.emoji import Emoji
from perceiver.data.datasets.emoji_prompts import EmojiPrompts
from perceiver.data.datasets.imagenet import ImageNet
from perceiver.data.datasets.modelnet40 import ModelNet40
from perceiver.data.datasets.multi30k import Multi30k
from perceiver.data.datasets.python_texts import PythonTexts
from perceiver.data.datasets.speech_commands import SpeechCommands
from perceiver.data.datasets.spoken_digits import SpokenDigits
from perceiver.data.datasets.torchvision_images import CIFAR10, CIFAR100, MNIST, FashionMNIST
from perceiver.data.folders.audio import AudioFolder
from perceiver.data.folders.flow import FlowFolder
from perceiver.data.folders.images import ImageFolder
from perceiver.data.folders.parallel_text import ParallelText
from perceiver.data.folders.segmentation import SegmentationFolder
from perceiver.data.folders.text import TextFiles
from perceiver.data.loading.module import DataModule
from perceiver.data.loading.source import Source
from perceiver.data.manifest import Manifest
from perceiver.data.readers.texts.next_tokens import LongTexts
from perceiver.data.readers.texts.source import TextSource
from perceiver.data.synthetic.av_digits import AVDigits
from perceiver.data.synthetic.captions.scenes import SceneCaptions
from perceiver.data.synthetic.captions.spoken_sequences import SpokenSequences
from perceiver.data.synthetic.dialed_digits import DialedDigits
from perceiver.data.synthetic.digit_points import DigitPoints
from perceiver.data.synthetic.mirrored_copy import MirroredCopy
from perceiver.data.synthetic.moving_digits import MovingDigits
from perceiver.data.synthetic.placed_digits import PlacedDigits
from perceiver.data.synthetic.prompts.source import DigitPrompts
from perceiver.data.synthetic.trimodal_digits import TrimodalDigits

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "LongTexts",
    "MNIST",
    "AVDigits",
    "AudioFolder",
    "ClassPrompts",
    "DataModule",
    "DialedDigits",
    "DigitPoints",
    "DigitPrompts",
    "Digits",
    "Emoji",
    "EmojiPrompts",
    "FashionMNIST",
    "FlowFolder",
    "ImageFolder",
    "ImageNet",
    "Manifest",
    "MirroredCopy",
    "MixUpCutMix",
    "ModelNet40",
    "MovingDigits",
    "Multi30k",
    "ParallelText",
    "PlacedDigits",
    "PythonTexts",
    "RandomAffine",
    "SceneCaptions",
    "SegmentationFolder",
    "Source",
    "SpeechCommands",
    "SpokenDigits",
    "SpokenSequences",
    "TextFiles",
    "TextSource",
    "TrimodalDigits",
]
