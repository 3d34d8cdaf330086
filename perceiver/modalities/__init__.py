"""Kinds of modality: how raw samples of each kind become the tensors that a model is trained on."""
