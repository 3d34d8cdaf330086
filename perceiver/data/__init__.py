"""Lightning data modules: real data in, `perceiver.batch.Batch` out, and the `spec` that describes the data."""

from perceiver.data.audio_folder import AudioFolder
from perceiver.data.augmentation import RandomAffine
from perceiver.data.av_digits import AVDigits
from perceiver.data.cifar import CIFAR10, CIFAR100
from perceiver.data.dialed_digits import DialedDigits
from perceiver.data.digit_points import DigitPoints
from perceiver.data.digits import Digits
from perceiver.data.fashion_mnist import FashionMNIST
from perceiver.data.flow_folder import FlowFolder
from perceiver.data.image_folder import ImageFolder
from perceiver.data.image_module import ImageDataModule
from perceiver.data.imagenet import ImageNet
from perceiver.data.labelled_module import LabelledDataModule
from perceiver.data.manifest import Manifest
from perceiver.data.mixing import MixUpCutMix
from perceiver.data.mnist import MNIST
from perceiver.data.modelnet40 import ModelNet40
from perceiver.data.moving_digits import MovingDigits
from perceiver.data.placed_digits import PlacedDigits
from perceiver.data.python_texts import PythonTexts
from perceiver.data.segmentation_folder import SegmentationFolder
from perceiver.data.speech_commands import SpeechCommands
from perceiver.data.spoken_digits import SpokenDigits
from perceiver.data.text_files import TextFiles
from perceiver.data.text_module import TextDataModule
from perceiver.data.trimodal_digits import TrimodalDigits

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
