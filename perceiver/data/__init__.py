"""Lightning data modules: real data in, `perceiver.batch.Batch` out, and the `spec` that describes the data."""

from perceiver.data.augmentation.images import RandomAffine
from perceiver.data.augmentation.mixing import MixUpCutMix
from perceiver.data.datasets.cifar import CIFAR10, CIFAR100
from perceiver.data.datasets.digits import Digits
from perceiver.data.datasets.fashion_mnist import FashionMNIST
from perceiver.data.datasets.imagenet import ImageNet
from perceiver.data.datasets.mnist import MNIST
from perceiver.data.datasets.modelnet40 import ModelNet40
from perceiver.data.datasets.python_texts import PythonTexts
from perceiver.data.datasets.speech_commands import SpeechCommands
from perceiver.data.datasets.spoken_digits import SpokenDigits
from perceiver.data.folders.audio import AudioFolder
from perceiver.data.folders.flow import FlowFolder
from perceiver.data.folders.images import ImageFolder
from perceiver.data.folders.segmentation import SegmentationFolder
from perceiver.data.folders.text import TextFiles
from perceiver.data.loading.image_module import ImageDataModule
from perceiver.data.loading.labelled_module import LabelledDataModule
from perceiver.data.manifest import Manifest
from perceiver.data.readers.text_module import TextDataModule
from perceiver.data.synthetic.av_digits import AVDigits
from perceiver.data.synthetic.dialed_digits import DialedDigits
from perceiver.data.synthetic.digit_points import DigitPoints
from perceiver.data.synthetic.moving_digits import MovingDigits
from perceiver.data.synthetic.placed_digits import PlacedDigits
from perceiver.data.synthetic.trimodal_digits import TrimodalDigits

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "AVDigits",
    "AudioFolder",
    "DialedDigits",
    "DigitPoints",
    "Digits",
    "FashionMNIST",
    "FlowFolder",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet",
    "LabelledDataModule",
    "Manifest",
    "MixUpCutMix",
    "ModelNet40",
    "MovingDigits",
    "PlacedDigits",
    "PythonTexts",
    "RandomAffine",
    "SegmentationFolder",
    "SpeechCommands",
    "SpokenDigits",
    "TextDataModule",
    "TextFiles",
    "TrimodalDigits",
]
