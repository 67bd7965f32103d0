"""The architectures of the benchmark, and how a configuration becomes one of them.

Every network is made of named modules (no functional activations, no slices), so that the graph of coupled nodes can be
traced, a module's path says in a report which layer is meant, and second derivatives exist everywhere that the
activation has them (nothing works in place). All take the input ``shape`` without the batch and the number of
``classes`` (of outputs, for regression) from the data set.
"""

from benchmarks.models.build import build
from benchmarks.models.densenet import DenseNet
from benchmarks.models.gpt import CharGPT, CharLlama
from benchmarks.models.imagenet_resnet import ImageNetResNet
from benchmarks.models.lenet import LeNet5
from benchmarks.models.mobilenet import MobileNetV2
from benchmarks.models.perceptron import MLP
from benchmarks.models.recurrent import ElmanRNN
from benchmarks.models.resnet import ResNet
from benchmarks.models.text_encoder import TextEncoder
from benchmarks.models.vgg import VGG
from benchmarks.models.vit import ViT

__all__ = [
    "MLP",
    "VGG",
    "CharGPT",
    "CharLlama",
    "DenseNet",
    "ElmanRNN",
    "ImageNetResNet",
    "LeNet5",
    "MobileNetV2",
    "ResNet",
    "TextEncoder",
    "ViT",
    "build",
]
